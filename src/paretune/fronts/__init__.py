"""Fronts as numbers: indicators, layers, front, record, record_0_1, triangulation, surface, refinement."""
