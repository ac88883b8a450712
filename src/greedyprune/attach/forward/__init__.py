"""One forward as values: its inputs, the refusals, the decision, and the edits of masks, positions and KV caches."""
