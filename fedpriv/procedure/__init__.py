"""Procedure: how a federation trains."""
