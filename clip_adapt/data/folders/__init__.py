"""Folders of a user's own: which of them are splits, which are classes, and what lies in them."""
