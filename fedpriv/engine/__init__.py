"""Engines: what carries data along the line of stations."""
