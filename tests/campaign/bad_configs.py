"""Bad configs: refused before anything is trained, in one message that names the key, with exit 2."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import yaml

from campaign.mutations import Bad, one_wrong, special
from campaign.trial import Bench, Fault, Trial, distinct, done, picked, refused
from campaign.worlds import cache_in, world

KIND = "bad-configs"
WHOLE, TABLE = 250, 50
"""Configs of the schema and by hand, and configs from the table of the tests."""
BASE = {
    "score": [
        {"objective": name, "rule": "regex", "pattern": name, "how": "count"} for name in ("good", "kind")
    ],
    "methods": {"dpo-soup": {}},
}
"""Parts of a config, by which the bad ones have names before there is a world."""


def trials(count: int | None, chance: random.Random) -> Sequence[Trial]:
    """Return every special config, and random ones of the schema up to the number."""
    names = distinct(bad.name for bad in special(dict(BASE)))
    places = {name: place for place, name in enumerate(names)}
    names += [f"random {number}" for number in range(max(WHOLE, count or 0) - len(names))]
    tables = [f"of the table {number}" for number in range(TABLE)]
    chosen = picked([*names, *tables], count, chance)
    return [
        Trial(KIND, name, of_the_table if name in tables else _bound(places.get(name))) for name in chosen
    ]


def _bound(place: int | None) -> object:
    return lambda bench: tried(bench, place)


def tried(bench: Bench, place: int | None) -> str:
    """Run a bad config."""
    made = world(bench, "dpo-soup")
    folder = made.fresh(bench.folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    bad = one_wrong(config, bench.chance) if place is None else special(config)[place]
    (folder / "config.yaml").write_bytes(bad.content)
    ended = bench.warm("run", "config.yaml", cwd=folder, env=cache_in(folder), timeout=60)
    try:
        checked(bad, bench, ended)
    except Fault as fault:
        raise Fault(f"{bad.name}: {fault}") from None
    return f"{bad.name}: {ended.last_line[:200]}"


FROM_TABLE = """
import json
from pathlib import Path
from support.bad_configs import bad_configs
cases = bad_configs()
case = cases[int({share} * len(cases))]
Path("config.yaml").write_bytes(case.content)
print(json.dumps([case.name, case.key, case.overrides]))
"""


def of_the_table(bench: Bench) -> str:
    """Run one of the bad configs that ``tests/support/bad_configs.py`` generates."""
    code = FROM_TABLE.format(share=bench.chance.random())
    made = bench.warm(code=code, cwd=bench.folder)
    done(made, "writing a config of the table")
    name, key, overrides = json.loads(made.out.splitlines()[-1])
    ended = bench.warm("run", "config.yaml", *overrides, cwd=bench.folder, timeout=60)
    try:
        checked(Bad(name, (key,)), bench, ended)
    except Fault as fault:
        raise Fault(f"{name}: {fault}") from None
    return f"{name}: {ended.last_line[:200]}"


def checked(bad: Bad, bench: Bench, ended: object) -> None:
    """Check that a config was refused in time.

    Raises:
        Fault: It was not.
    """
    refused(ended, bad.keys)  # type: ignore[arg-type]
    if list(bench.folder.glob("**/adapters/*/stage.json")):
        raise Fault("refused only after training")
