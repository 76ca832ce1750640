"""Kills: a run is killed by SIGKILL at random, one to three times, and continued until it is done.

Half of the kills come at a random time, half just before a random change of a folder (a new file, a rename, a removal), where half
a change would show. Every file must then be that of an undisturbed run, bit for bit, and nothing else may lie there.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from campaign.folders import differences, in_words, snapshot
from campaign.trial import Bench, Fault, Trial, done, picked
from campaign.warm import Ended
from campaign.worlds import World, cache_in, methods, world

KIND = "kills"
WHOLE = 100
"""Chains of kills in the whole campaign."""
GRID = "export-grid"


def trials(count: int | None, chance: random.Random) -> Sequence[Trial]:
    """Return chains of kills over all methods in turn, and over the export of a grid."""
    every = [*methods(), GRID]
    whole = [
        f"{every[number % len(every)]}-{number // len(every)}" for number in range(max(WHOLE, count or 0))
    ]

    def trial(name: str) -> Trial:
        return Trial(KIND, name, lambda bench: killed(bench, name.rpartition("-")[0]))

    return [trial(name) for name in picked(whole, count, chance)]


def killed(bench: Bench, name: str) -> str:
    """Kill and continue, and compare."""
    if name == GRID:
        return killed_export(bench)
    made = world(bench, name)
    folder = made.fresh(bench.folder)
    kills = chain(bench, made, ("run", "config.yaml"), folder)
    found = differences(made.result, snapshot(folder / "run"))
    if found:
        raise Fault(f"after {kills}: {in_words(found)}")
    cached = differences(snapshot(made.folder / "cache"), snapshot(folder / "cache"))
    if strays := [line for line in cached if line.startswith("stray")]:
        raise Fault(f"after {kills}, in the cache: {in_words(strays)}")
    return f"after {kills}"


def killed_export(bench: Bench) -> str:
    """Kill the export of a grid of LoRAs, and give the same command again."""
    made = world(bench, "dpo-soup")
    command = ("export", made.folder / "run", "loras", "--grid", 5)
    whole, broken = bench.folder / "whole", bench.folder / "broken"
    whole.mkdir()
    broken.mkdir()
    count = bench.folder / "changes"
    ended = bench.warm(*command, cwd=whole, env=cache_in(made.folder), count_to=str(count))
    done(ended, "the undisturbed export")
    facts = World("export", made.folder, ended.seconds, int(count.read_text()))
    kills = chain(bench, facts, command, broken)
    if found := differences(snapshot(whole / "loras"), snapshot(broken / "loras")):
        raise Fault(f"after {kills}: {in_words(found)}")
    return f"after {kills}"


def chain(bench: Bench, made: World, command: Sequence[object], folder: Path) -> str:
    """Run a command under one to three kills, then to its end; return the kills in words.

    Raises:
        Fault: The last run does not end well.
    """
    said: list[str] = []
    env = cache_in(folder)
    for _ in range(bench.chance.choice((1, 1, 2, 3))):
        ended: Ended
        if bench.chance.random() < 0.5:
            at = bench.chance.randint(1, made.changes)
            ended = bench.warm(*command, cwd=folder, env=env, kill_at=at)
            place = f"change {at} of {made.changes}"
        else:
            after = bench.chance.uniform(0.02, 0.98) * made.seconds
            ended = bench.warm(*command, cwd=folder, env=env, kill_after=after)
            place = f"{after:.2f} of {made.seconds:.2f} s"
        if ended.code == -9:
            said.append(place)
        else:
            done(ended, f"the same command after {said}" if said else "a run that was not killed in time")
            return f"kills at {', '.join(said)}" if said else "no kill in time"
    last = bench.warm(*command, cwd=folder, env=env)
    kills = f"kills at {', '.join(said)}" if said else "no kill in time"
    try:
        done(last, "the same command")
    except Fault as fault:
        raise Fault(f"after {kills}: {fault}") from None
    return kills
