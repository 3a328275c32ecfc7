"""Benchmarks: rounds a second and memory, each measured side by side in one run."""
