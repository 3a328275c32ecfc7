"""Experiments: a grid of attack x defense x setting x seed in one YAML file, run, resumed, tabled and reported."""
