"""The metrics that every classifier is measured by: a file a family, found by being here."""
