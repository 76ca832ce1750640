"""Bad configs: refused before anything is trained, in one message that names the key, with exit 2."""

from __future__ import annotations

import random
from collections.abc import Sequence

import yaml

from campaign.mutations import Bad, one_wrong, special
from campaign.trial import Bench, Fault, Trial, plain, refused
from campaign.worlds import cache_in, world

KIND = "bad-configs"
WHOLE = 250
BASE = {
    "score": [{"objective": name, "rule": "regex", "pattern": name, "how": "count"} for name in ("good", "kind")],
    "methods": {"dpo-soup": {}},
}
"""The parts of the config by which a bad one is named before there is a model."""


def trials(count: int | None, chance: random.Random) -> Sequence[Trial]:
    """Return every special config, and random ones of the schema up to the number."""
    every = special(dict(BASE))
    names = [plain(f"{number} {bad.name}") for number, bad in enumerate(every)]
    names += [f"{number} random" for number in range(len(every), WHOLE)]
    if count is not None:
        names = chance.sample(names, min(count, len(names)))
    return [Trial(KIND, name, _bound(int(name.split()[0]))) for name in names]


def _bound(number: int) -> object:
    return lambda bench: tried(bench, number)


def tried(bench: Bench, number: int) -> str:
    """Run a bad config."""
    made = world(bench, "dpo-soup")
    folder = made.fresh(bench.folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    every = special(config)
    bad = every[number] if number < len(every) else one_wrong(config, bench.chance)
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
