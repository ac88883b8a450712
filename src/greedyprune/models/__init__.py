"""Families as data: where things are in a model. Lists are never kept by hand, everything reads `table.py`."""
