"""The command line.

Reading order: main, config, data, inspect, select, plan, verdicts, serving, choose, chat, doctor, allocator.
"""
