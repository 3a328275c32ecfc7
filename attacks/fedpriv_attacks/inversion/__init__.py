"""Inversion: attacks that search for inputs whose simulated update matches."""
