"""The command line: main, data, inspect, select, choose, chat, plan, serving, doctor, allocator."""
