"""From a model card to two towers with their weights."""
