"""The command line.

Reading order: main, ending, config, data, inspect, select, plan, verdicts, serving, choose, chat, doctor, allocator.
"""
