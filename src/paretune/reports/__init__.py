"""A measured front as pages and pictures: wording, plots, response_plots, page, findings, picture, card, report."""
