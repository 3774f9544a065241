"""The processes of a run: how they come together, share work, and are asked to stop."""
