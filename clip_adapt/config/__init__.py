"""Typed options, YAML and its help, data and model cards."""
