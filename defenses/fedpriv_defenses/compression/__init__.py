"""Lossy compression of updates: what a client sends takes fewer bits, and is not what it computed."""
