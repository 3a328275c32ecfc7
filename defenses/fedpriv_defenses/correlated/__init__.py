"""Noise that is correlated over rounds, so that it partly cancels in the model: DP-FTRL and its factorizations."""
