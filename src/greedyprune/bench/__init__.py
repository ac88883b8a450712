"""Measurements: ratios taken side by side in one run, never timed tests. `greedyprune bench` runs them."""
