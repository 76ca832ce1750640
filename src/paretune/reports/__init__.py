"""A measured front as pages and pictures.

Reading order: wording, plots, selection, scatter, response_plots, page, natural, needed, tiles, verdicts, findings, front_section,
answers, beside, plot_data, scripts, how_trained, training, data_tables, scorers, next_steps, use, report; picture, markdown, card,
data_card. `plot/` is the module that draws the front in the report and in the studio.
"""
