"""Rows and where they come from: rows, row_store, dataset, pairs, readers, columns, formats, known, shipped, load, summary."""
