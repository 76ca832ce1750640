"""A person's files: they lie wherever the product writes, and none of them is ever lost or changed.

A command that is told to write where foreign files lie may refuse, or write beside them; and no name in a config leads out of the
run folder.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from campaign.folders import snapshot
from campaign.trial import Bench, Fault, Trial, picked, plain, squeezed
from campaign.worlds import World, cache_in, world

KIND = "user-files"
THESIS = {
    "thesis.txt": "all my work\n",
    "config.json": '{"mine": true}\n',
    "notes/day 1.md": "a note\n",
    "model.safetensors": "not really\n",
    ".hidden": "mine\n",
}
"""Files of a person, some with names that the product has too."""
AT = ("-p", "good=0.5,kind=0.5")


def scatter(folder: Path, names: Sequence[str] = tuple(THESIS)) -> None:
    """Put the person's files into a folder."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text(THESIS[name])


SAVE = """
from paretune.models.language_model import load
from paretune.policies.policy import Policy
policy = Policy.load({policy!r}, load({model!r}, "float32", "cpu"))
try:
    {call}
except ValueError as error:
    print(error)
    raise SystemExit(2)
"""


def places(made: World) -> dict[str, tuple[str, tuple[object, ...] | str]]:
    """Return name -> (where the files lie, the command or Python that writes there)."""
    data, run, model = made.folder / "data.jsonl", made.folder / "run", str(made.folder / "model")

    def code(call: str) -> str:
        return SAVE.format(policy=str(run / "policies" / "dpo-soup"), model=model, call=call)

    sample = (
        "data",
        "sample",
        data,
        "mine/out.jsonl",
        "--model",
        model,
        "--responses",
        1,
        "--max-new-tokens",
        2,
    )
    return {
        "score fit": ("mine", ("score", "fit", made.folder / "many.jsonl", "--objective", "good", "--folder", "mine")),
        "export lora": ("mine", ("export", run, "mine", *AT)),
        "export dense": ("mine", ("export", run, "mine", *AT, "--format", "dense")),
        "export grid": ("mine", ("export", run, "mine", "--grid", 3)),
        "export lora into a policy": ("run/policies/dpo-soup", ("export", "run", "run/policies/dpo-soup", *AT)),
        "policy.save": ("mine", code('policy.save("mine")')),
        "adapter.save": ("mine", code('policy.adapters[0].save("mine")')),
        "run, in the run folder": ("run", ("run", "config.yaml")),
        "run, in the folder of the policy": ("run/policies/dpo-soup", ("run", "config.yaml")),
        "run, in the folder of a stage": ("run/adapters/dpo-good", ("run", "config.yaml")),
        "run, in the adapter": ("run/adapters/dpo-good/adapter", ("run", "config.yaml")),
        "run, beside the policies": ("run/policies", ("run", "config.yaml")),
        "run, beside the fronts": ("run/fronts", ("run", "config.yaml")),
        "run, in the cache": ("run/cache", ("run", "config.yaml")),
        "run, in the checkpoints": ("run/checkpoints", ("run", "config.yaml")),
        "run, in the data": ("run/data", ("run", "config.yaml")),
        "other settings, in the folder of the policy": ("run/policies/dpo-soup", ("run", "config.yaml", "train.steps=2")),
        "other settings, in the folder of a stage": ("run/adapters/dpo-good", ("run", "config.yaml", "train.steps=2")),
        "data convert": ("mine", ("data", "convert", data, "mine/thesis.txt")),
        "data convert onto a file": ("mine", ("data", "convert", data, "mine/thesis.jsonl")),
        "data convert onto a folder": ("mine/x.jsonl", ("data", "convert", data, "mine/x.jsonl")),
        "data sample": ("mine/out.jsonl.parts", sample),
        "data select": ("mine", ("data", "select", data, "--k", 2, "--out", "mine", "--jsonl", "mine/chosen.jsonl")),
        "from votes": ("mine", ("data", "from-votes", "store.sqlite", "mine/thesis.jsonl")),
        "add objective": ("run/adapters/dpo-bad", ("add-objective", "run", "bad", "--score", "{rule: length, unit: words}")),
        "front": ("run/policies/soup", ("front", "config.yaml", "--adapter", f"good={run}/adapters/dpo-good/adapter",
        "--adapter", f"kind={run}/adapters/dpo-kind/adapter")),
        "sweep": ("run/policies/dpo-soup", ("sweep", "config.yaml")),
        "report": ("run/report.html", ("run", "config.yaml")),
    }  # fmt: skip


FRESH = ("", " (new run)")
"""Whether the run was finished before the files came."""
CLIMBING = (
    "../../victim",
    "../victim",
    "a/b",
    "/absolute",
    "x" * 300,
    "..",
    ".",
    "a\\b",
    "a\0b",
    "CON",
    " ",
    "-p",
    "a=b,c",
    "ü",
)
"""Names that are no name of a folder, or hardly."""
NAMED: dict[str, Callable[[dict[str, Any], str], None]] = {
    "objective": lambda config, name: config["score"][0].update(objective=name),
    "method": lambda config, name: config.update(methods={name: {"method": "dpo-soup"}}),
    "name": lambda config, name: (config.update(name=name), config.pop("folder")),  # type: ignore[func-returns-value]
}


def trials(count: int | None, chance: random.Random) -> Sequence[Trial]:
    """Return every place with files, and every name in every key that becomes a path."""

    def at(place: str, fresh: bool) -> Trial:
        return Trial(KIND, place + FRESH[fresh], lambda bench: kept(bench, place, fresh))

    def named(key: str, name: str) -> Trial:
        return Trial(
            KIND, f"{key} {CLIMBING.index(name)} {plain(name[:20])}", lambda bench: inside(bench, key, name)
        )

    made = [at(place, False) for place in places(World("", Path(), 0, 0))]
    made += [
        at(place, True)
        for place, (where, _) in places(World("", Path(), 0, 0)).items()
        if where.startswith("run")
    ]
    made += [named(key, name) for key in NAMED for name in CLIMBING]
    found = {trial.name: trial for trial in made}
    return [found[name] for name in picked(list(found), count, chance)]


def kept(bench: Bench, place: str, fresh: bool) -> str:
    """Put files where a command writes, give it, and look for them."""
    made = world(bench, "dpo-soup")
    folder = made.fresh(bench.folder) if fresh else made.finished(bench.folder)
    where, command = places(made)[place]
    target = folder / where
    if place.endswith("onto a file") or place == "from votes":
        target.mkdir()
        (target / "thesis.jsonl").write_text("my own lines\n")
    elif place == "report":
        target.unlink(missing_ok=True)
    if place == "from votes":
        votes(bench, folder)
    scatter(target)
    mine = {name: raw for name, raw in snapshot(folder).items() if is_mine(folder, where, name)}
    options = {"code": command} if isinstance(command, str) else {}
    given = () if isinstance(command, str) else command
    ended = bench.warm(*given, cwd=folder, env=cache_in(folder), **options)
    after = snapshot(folder)
    lost = [name for name, raw in mine.items() if after.get(name) != raw]
    if lost:
        raise Fault(f"exit {ended.code} and lost or changed: {', '.join(lost)}")
    spoken(ended)
    return f"exit {ended.code}"


def is_mine(folder: Path, where: str, name: str) -> bool:
    """Return whether a file is a person's."""
    inner = name.removeprefix(f"{where}/")
    return (
        not name.endswith("/")
        and inner != name
        and (inner == "thesis.jsonl" or (folder / name).read_text(errors="replace") == THESIS.get(inner))
    )


def votes(bench: Bench, folder: Path) -> None:
    """Write a store of a server without votes."""
    made = 'from paretune.serving.store.store import Store; Store.open("sqlite:///store.sqlite")'
    bench.warm(code=made, cwd=folder)


def spoken(ended: Any) -> None:
    """Check that a command ended well or refused in words.

    Raises:
        Fault: It did neither.
    """
    if ended.timed_out or ended.code not in (0, 2) or "Traceback" in ended.text:
        raise Fault(f"nothing lost, but exit {ended.code}: {ended.last_line}")


def inside(bench: Bench, key: str, name: str) -> str:
    """Run a config with a name that is no name of a folder; nothing outside the run folder may change."""
    made = world(bench, "dpo-soup")
    home = bench.folder / "home"
    folder = made.fresh(home / "a" / "b")
    for victim in (home / "victim", home / "a" / "victim", folder / "victim"):
        scatter(victim)
    name = str(home / "victim") if name == "/absolute" else name
    config = yaml.safe_load((folder / "config.yaml").read_text())
    NAMED[key](config, name)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    before = snapshot(bench.folder)
    ended = bench.warm("run", "config.yaml", cwd=folder, env=cache_in(folder))
    after = snapshot(bench.folder)
    own = ("home/a/b/run/", "home/a/b/runs/", "home/a/b/cache/")
    changed = [path for path in before if after.get(path) != before[path]]
    added = [path for path in after if path not in before and not path.startswith(own)]
    if changed or added:
        raise Fault(
            f"exit {ended.code}; outside the run folder it changed {changed[:4]} and made {added[:4]}"
        )
    spoken(ended)
    if ended.code == 2 and squeezed(name.strip())[:40] not in squeezed(ended.text) and key not in ended.text:
        raise Fault(f"the message names neither {key} nor {name[:40]!r}: {ended.last_line}")
    return f"exit {ended.code}"
