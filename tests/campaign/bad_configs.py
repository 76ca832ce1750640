"""Bad configs: refused before anything is trained, in one message that names the key, with exit 2."""

from __future__ import annotations

import random
from collections.abc import Sequence

import yaml

from campaign.mutations import Bad, one_wrong, special
from campaign.trial import Bench, Fault, Trial, distinct, picked, refused
from campaign.worlds import cache_in, world

KIND = "bad-configs"
WHOLE = 250
BASE = {
    "score": [{"objective": name, "rule": "regex", "pattern": name, "how": "count"} for name in ("good", "kind")],
    "methods": {"dpo-soup": {}},
}
"""Parts of a config, by which the bad ones have names before there is a world."""


def trials(count: int | None, chance: random.Random) -> Sequence[Trial]:
    """Return every special config, and random ones of the schema up to the number."""
    names = distinct(bad.name for bad in special(dict(BASE)))
    places = {name: place for place, name in enumerate(names)}
    names += [f"random {number}" for number in range(max(WHOLE, count or 0) - len(names))]
    return [Trial(KIND, name, _bound(places.get(name))) for name in picked(names, count, chance)]


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


def checked(bad: Bad, bench: Bench, ended: object) -> None:
    """Check that a config was refused in time.

    Raises:
        Fault: It was not.
    """
    refused(ended, bad.keys)  # type: ignore[arg-type]
    if list(bench.folder.glob("**/adapters/*/stage.json")):
        raise Fault("refused only after training")
