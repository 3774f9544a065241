"""The methods that ship: one file a method. They import the engine; the engine finds them by name."""
