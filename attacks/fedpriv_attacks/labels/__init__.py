"""Labels: attacks and parts that infer labels from updates."""
