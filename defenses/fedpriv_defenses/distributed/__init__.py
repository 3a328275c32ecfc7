"""Distributed differential privacy: each client adds its share of discrete noise, and a secure sum adds them up."""
