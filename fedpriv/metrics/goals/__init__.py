"""The goals that ship: one a file."""
