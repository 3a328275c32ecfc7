"""Automatic transformation search: clients train on transformed images, by policies that are searched for."""
