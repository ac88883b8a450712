"""Probes compute a layer's attention weights again from its queries and keys, only in layers that a method reads.

So the model keeps its fast attention, which returns no weights. `rows.py` has the arithmetic. `tower.py` and
`decoder.py` compute the queries and keys of vision towers and decoders.
"""
