"""The pages that a person looks at: one of each run, and an index over many."""
