"""Rounds: carrying a federation round after round."""
