"""Probes: what a layer's attention sees, computed again from its queries and keys only where a method asks.

So the model keeps its fast attention, which returns no weights. `rows.py` has the arithmetic, `tower.py` and
`decoder.py` know how the layers of vision towers and decoders make queries and keys.
"""
