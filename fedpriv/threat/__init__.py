"""Threat: who listens, what they hold, and what an attack is."""
