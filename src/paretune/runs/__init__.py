"""From a config to a report.

Reading order: config, about_data, names, shipped, parse, checks, sizes, schema; scores, prepare, run_folder, run, extend,
measure, tasks, sweep, workers; compare; plan, estimate, forecast, status, draft.
"""
