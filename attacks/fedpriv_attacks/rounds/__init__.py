"""Attacks on what one adversary holds after several rounds."""
