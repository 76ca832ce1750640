"""A measured front as pages and pictures: wording, plots, scatter, response_plots, page, findings, picture, card, report."""
