"""Capture: a round that was trained elsewhere, as a view that attacks can be run on."""

from fedpriv.capture.captured import Capture, captured

__all__ = ["Capture", "captured"]
