"""From a config to a report.

Reading order: config, names, shipped, schema_types, principles, keys, parse, checks, sizes, schema, reference; scores, about_data,
named_sources, given, scorer_usage, fitted_heads, prepare, run_folder, run, extend, recorded, measure, data_files, share_data,
tasks, sweep, workers; compare; plan, estimate, memory, scorer_models, asking, forecast, status, draft, advice.
"""
