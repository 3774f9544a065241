"""The methods that ship, one file each: they import the engine, which finds them by name."""
