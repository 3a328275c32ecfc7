"""Attacks on images that were mixed or transformed before training: telling them apart, turning them back."""
