"""Text: attacks that test or count tokens of a known vocabulary, without optimization."""
