"""Figures: one style, drawn without a display, saved for screen and print."""
