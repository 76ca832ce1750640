"""The command line.

Reading order: main, ending, usage, log, output, start, quickstart, init, config, data, inspect, select, plan, verdicts, judge,
figures, serving, choose, chat, doctor, allocator.
"""
