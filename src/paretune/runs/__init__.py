"""From a config to a report.

Reading order: config, names, shipped, keys, parse, checks, sizes, schema, reference; prepare, run_folder, run, extend,
measure, tasks, sweep, workers; plan, estimate, forecast, status, draft, advice.
"""
