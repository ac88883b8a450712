"""Tiny random models, one module per kind of family; `tiny.py` joins them."""
