"""A campaign of trials against everything that goes wrong around a run: kills, damaged files, full disks, people's files, bad input.

``make campaign`` runs all of it (about 40 minutes on two cores); ``ARGS="--only kills --count 5 --seed 3"`` runs a part. It prints
what held by kind, names the trials that did not with the command that repeats each, writes JSON, and exits with 1 if any did not hold.

Reading order: trial (what a trial is), child and warm (how a command is started and killed), folders (comparing results), worlds
(what is run); the kinds: kills, corruption, damage, full_disk, user_files, bad_configs, mutations, bad_commands, requests, case_files;
kinds, __main__.
"""
