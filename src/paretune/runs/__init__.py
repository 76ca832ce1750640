"""From a config to a report: config, run, measure, tasks, sweep, workers, plan, estimate."""
