"""One forward as values: its inputs, what is refused, what is decided, and how masks, positions and caches follow."""
