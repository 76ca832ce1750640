"""From a config to a report: config, names, parse, schema, prepare, run_folder, run, extend, measure, tasks, sweep, workers, plan,
estimate.
"""
