"""Base: what every other wing stands on."""
