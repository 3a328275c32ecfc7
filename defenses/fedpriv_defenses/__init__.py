"""Defenses: objects that act at stations of a round."""
