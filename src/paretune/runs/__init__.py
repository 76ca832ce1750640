"""From a config to a report: config, shipped, parse, schema, prepare, run, extend, measure, tasks, sweep, workers, plan,
estimate, draft.
"""
