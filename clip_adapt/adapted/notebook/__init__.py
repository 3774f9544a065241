"""What people do with a classifier in a notebook: they hand values over, and look at it."""
