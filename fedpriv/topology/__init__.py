"""Topology: who exchanges models with whom where there is no server, with which weights, and by which protocol."""
