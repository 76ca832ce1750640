"""A measured front as pages and pictures.

Reading order: wording, plots, scatter, response_plots, page, verdicts, findings, report; picture, card.
"""
