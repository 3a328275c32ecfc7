"""The demo: train, intercept, reconstruct, defend, and show what it cost."""
