"""Attacks that answer yes or no: was this example trained on, does this client's data have a property?"""
