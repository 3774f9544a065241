"""What a run learns: one file an objective, found by its name."""
