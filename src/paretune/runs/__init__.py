"""From a config to a report: config, parse, schema, prepare, run, measure, tasks, sweep, workers, plan, estimate."""
