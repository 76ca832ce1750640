"""Fronts as numbers.

Reading order: indicators, layers, front, intervals, inference, movement; record_facts, record, earlier_records; score_table,
score_records, record_rows, drawing; triangulation, surface, scalarised, refinement.
"""
