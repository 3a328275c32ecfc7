"""Data: sources, formats, and partitions over clients."""
