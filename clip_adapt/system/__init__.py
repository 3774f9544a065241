"""The machine: files, locks, memory, and the names of a run's files."""
