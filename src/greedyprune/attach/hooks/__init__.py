"""Hooks on the modules of a model: they hand values to and fro, and decide nothing."""
