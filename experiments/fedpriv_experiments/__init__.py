"""Experiments: the demo, reproductions of papers, benchmarks."""
