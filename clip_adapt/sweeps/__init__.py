"""Many runs: the grid, the sweep, its tables and its curve."""
