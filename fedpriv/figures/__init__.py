"""Figures: what the numbers look like, for papers and reports."""
