"""The only package that joins methods and models. It cuts the sequence, and adapts masks, positions and KV caches.

- `handle.py`: the handle, which exists as long as a model is pruned. `request.py`: one request.
- `forward/`: one forward as values. It touches no module of the model.
- `hooks/`: hooks on the model's modules. They decide nothing.
- `context.py`: context variables, which hold values only while something runs.

docs/inside.md walks through one forward.
"""
