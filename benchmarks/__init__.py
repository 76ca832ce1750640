"""Measurements of the library: against peers (B1 to B10, `make bench`), and of its own parts.

Each is a module to run, such as ``python -m benchmarks.training.step``, in a folder named like the package that it measures.
`side_by_side.py` holds what the comparisons share, `table.py` writes the table of docs/performance.md.
"""
