"""Images and labels that Python code gives: in lists, tables and data sets of other libraries."""
