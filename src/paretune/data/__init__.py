"""Rows and where they come from: rows, row_store, dataset, pairs, readers, formats, known, load, summary."""
