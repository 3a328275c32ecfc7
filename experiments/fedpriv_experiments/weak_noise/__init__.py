"""Weak noise: what becomes of local noise whose seeds pass through few bits."""
