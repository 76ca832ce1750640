"""From a config to a report.

Reading order: config, names, shipped, keys, parse, checks, sizes, schema, reference; scores, about_data, named_sources, given,
prepare, run_folder, data_files, run, extend, share_data, measure, tasks, sweep, workers; compare; plan, estimate, forecast, status,
draft, advice.
"""
