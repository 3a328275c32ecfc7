"""Sums of ciphertexts: additively homomorphic encryption with a key holder beside the server."""
