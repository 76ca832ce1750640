"""From a config to a report: config, checks, sizes, parse, schema, prepare, run, extend, measure, tasks, sweep, workers, plan, estimate."""
