"""From a config to a report.

Reading order: config, shipped, parse, checks, sizes, schema; prepare, run, extend, measure, tasks, sweep, workers; plan, estimate.
"""
