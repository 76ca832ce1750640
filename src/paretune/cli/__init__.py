"""The command line.

Reading order: main, ending, usage, log, output, options, start, quickstart, init, advise, config, data, inspect, select, plan,
status, verdicts, judge, figures, serving, share, choose, chat, doctor, allocator, threads.
"""
