"""Pairwise: sums under masks that cancel between clients (Bonawitz et al., 2017; Bell et al., 2020)."""
