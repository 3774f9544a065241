"""Text as files, tables and terminals can hold it, whatever stands in it."""
