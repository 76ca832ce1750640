"""Fronts as numbers: indicators, layers, front, triangulation, surface, refinement."""
