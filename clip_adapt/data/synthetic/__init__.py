"""Pictures drawn from numbers, so that examples and tests need no download."""
