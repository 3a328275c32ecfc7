"""Optimizers: how an attack searches."""
