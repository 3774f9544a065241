"""The training loop, the recipe, fitting, runs side by side."""
