"""Attacks on mixtures of images: telling apart what was mixed before training."""
