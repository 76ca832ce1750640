"""A measured front as pages and pictures.

Reading order: wording, plots, scatter, response_plots, page, natural, needed, tiles, verdicts, findings, how_trained, data_tables,
scorers, next_steps, use, report; picture, markdown, card, data_card.
"""
