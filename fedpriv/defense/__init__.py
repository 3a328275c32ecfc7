"""Defense: what a defense is, and how defenses make a line."""
