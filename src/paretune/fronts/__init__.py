"""Fronts as numbers.

Reading order: indicators, layers, front, intervals, inference, movement; record_facts, record, earlier_records; triangulation,
surface, refinement.
"""
