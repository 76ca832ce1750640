"""A campaign of trials of all that goes wrong around a run: kills, damaged files, full disks, people's files, bad input.

``make campaign`` runs all of it, about 40 minutes on two cores; ``ARGS="--only kills --count 5 --seed 3"`` behind it
runs a part. It prints what was tried and what held by kind, names each trial that did not hold with the command that repeats it,
writes JSON, and exits with 1 if any did not. A small part runs with the tests.

Reading order: trial (what a trial is), warm and child (how a command is started and killed), folders (two results compared), worlds
(what is run). Then the kinds: kills; corruption, damage; full_disk; user_files; bad_configs, mutations; bad_commands; requests;
case_files. Then kinds, which lists them, and the command line.
"""
