"""The command line.

Reading order: main, ending, usage, log, output, start, quickstart, init, advise, config, data, inspect, select, plan, status,
verdicts, judge, figures, serving, choose, chat, doctor, allocator.
"""
