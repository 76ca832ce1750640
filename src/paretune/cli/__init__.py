"""The command line.

Reading order: main, ending, usage, log, output, options, start, quickstart, init, advise, config, data, inspect, select, score,
ranking, scorer_option, fitting, checking, pal, auto, plan, status, verdicts, judge, figures, generate, gguf, serving, share,
choose, chat, methods, doctor, allocator, threads.
"""
