"""Input defenses: clients train on mixtures of their images in place of the images."""
