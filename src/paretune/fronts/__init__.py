"""Fronts as numbers: indicators, layers, front, intervals, inference, movement, record, record_facts, earlier_records, triangulation, surface, refinement."""
