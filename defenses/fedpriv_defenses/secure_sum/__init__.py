"""Secure sums: protocols whose messages reveal a sum alone, and the arithmetic they rest on."""
