"""From a config to a report: config, run, extend, measure, tasks, sweep, workers, plan, estimate."""
