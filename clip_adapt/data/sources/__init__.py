"""Where images come from: one file a source, each with ``read(card, context, *, options)``."""
