"""Parts of ``benchmarks/gpu.py``: models of real shapes with random weights, and what is measured on them.

Reading order: rows, models, equality, step, peers, decoding, processes.
"""
