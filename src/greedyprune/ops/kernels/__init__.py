"""Greedy engines that stay on a device: batches of images of one size, with no value read on the host.

Each has the number of its steps from shapes alone, so the same operations run whatever the values are, and a graph of
them can be captured. All decisions are made in float64, with the ties of the engines for the CPU, which are the
reference. `picks.py` and `suppression.py` prepare an engine, `chosen.py` has its scan run by a Triton kernel or by
`loops.py`.
"""
