"""Metrics: what a reconstruction, and a federation, is worth."""
