"""The one place where methods and models meet: it cuts the sequence, and makes everything else follow.

- `handle.py`, `request.py`: what lives as long as a model is pruned, and one request.
- `forward/`: one forward as values. It touches no module of the model.
- `hooks/`: hooks on the model's modules. They decide nothing.
- `context.py`: what is true only while something runs.

docs/inside.md walks through one forward.
"""
