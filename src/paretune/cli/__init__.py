"""The command line.

Reading order: main, ending, usage, log, output, start, quickstart, init, advise, config, data, inspect, select, plan, status,
verdicts, serving, choose, chat, doctor, allocator.
"""
