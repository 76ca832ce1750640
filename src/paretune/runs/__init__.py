"""From a config to a report.

Reading order: config, names, shipped, parse, checks, sizes, schema; prepare, run_folder, run, extend, measure, tasks, sweep,
workers; plan, estimate, forecast, status, draft.
"""
