"""Kinds: what examples are, one a file."""
