"""Engines: pruning inside servers that have a forward of their own. Nothing imports this room but the engines."""
