"""Gradient inversion: the suite's attacks on the settings of the papers, one table each."""
