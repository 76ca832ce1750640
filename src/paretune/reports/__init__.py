"""A measured front as pages and pictures.

Reading order: wording, plots, scatter, response_plots, page, verdicts, findings, how_trained, data_tables, scorers, next_steps,
report; picture, markdown, card, data_card.
"""
