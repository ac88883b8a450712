"""The scans as Triton kernels. Only `ops/kernels/chosen.py` imports them, once it knows that triton is there."""
