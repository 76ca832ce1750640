"""Settings that cannot be, made from the schema of a config: every key misspelt, of wrong types, out of range, not finite."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SCHEMA = Path(__file__).parents[2] / "configs" / "schema.json"
SIGNED = {
    "index",
    "per",
    "enough",
    "empty",
    "floor",
    "margin",
    "lam",
    "ideal",
    "reference_point",
    "least",
    "conflicts",
    "rho",
}
"""Numbers that may be negative, or whose -1 says something."""
PLACES = {"folder", "model", "data.source", "data.test", "data.path"}
"""Settings that name a file or folder; a message may give that name instead of the key."""
HUGE = {
    "train.steps",
    "train.rank",
    "train.batch_pairs",
    "sampling.max_new_tokens",
    "data.sample",
    "evaluate.samples",
}
"""Counts of which a senseless number must be refused rather than tried."""


@dataclass(frozen=True)
class Bad:
    """A config that cannot be.

    Attributes:
        name: What is wrong, for people.
        keys: Words of which the message must have one.
        text: The file's content; None where ``values`` say it.
        values: The settings.
    """

    name: str
    keys: tuple[str, ...]
    text: bytes | None = None
    values: dict[str, Any] | None = None

    @property
    def content(self) -> bytes:
        """The file's content."""
        return self.text if self.text is not None else yaml.safe_dump(self.values, sort_keys=False).encode()


def leaves(config: dict[str, Any]) -> list[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Return (path, schema) of every setting: general ones, those of the first scorer, and those of the config's method."""
    schema = json.loads(SCHEMA.read_text())
    known = schema["$defs"]

    def walk(
        path: tuple[str | int, ...], part: dict[str, Any]
    ) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
        part = known[part["$ref"].split("/")[-1]] if "$ref" in part else part
        if part.get("properties") and path:
            yield path, {"type": "object"}
        for key, inner in part.get("properties", {}).items():
            if key not in ("methods", "score"):
                yield from walk((*path, key), inner)
        if not part.get("properties"):
            yield path, part

    found = list(walk((), schema))
    (method,) = config["methods"]
    rule = config["score"][0]["rule"]
    for path, name in ((("methods", method), f"method-{method}"), (("score", 0), f"rule-{rule}")):
        for key, inner in known[name]["properties"].items():
            if key not in ("method", "train", "rule"):
                found.append(((*path, key), inner))
    return [(path, part) for path, part in found if path[:2] != ("train", "seed")]


def wrong(part: dict[str, Any], path: tuple[str | int, ...]) -> list[Any]:
    """Return values that a setting with this schema cannot have."""
    kinds = [one.get("type") for one in part.get("anyOf", [part])]
    key, nan, infinite = path[-1], float("nan"), float("inf")
    values: list[Any] = [{"a": {"b": 1}}] if "object" not in kinds else [5, "text", [1]]
    if "null" not in kinds and kinds != [None]:
        values.append(None)
    if "array" not in kinds and kinds != [None]:
        values.append([["x"]])
    if "enum" in part or "boolean" in kinds:
        values += ["nonsense", 7, nan]
    elif "integer" in kinds or "number" in kinds:
        values += [
            "many",
            nan,
            infinite,
            -infinite,
            "1_0x",
            True if "integer" in kinds and key == "rank" else "yes please",
        ]
        values += [1.5] if "number" not in kinds else []
        values += [] if key in SIGNED else [-1, -(10**20)]
        values += [10**18] if ".".join(map(str, path)) in HUGE else []
        if "string" in kinds or "array" in kinds:
            values = [value for value in values if not isinstance(value, str)]
    elif "string" in kinds:
        values += [5, True, 1.5]
    elif "array" in kinds:
        values += [5, "text", [{"a": 1}]]
    return [value for value in values if not ("object" in kinds and isinstance(value, dict))]


def put(config: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """Return a copy of a config with one setting changed."""
    made = copy.deepcopy(config)
    group: Any = made
    for key in path[:-1]:
        if isinstance(group, dict) and group.get(key) is None:
            group[key] = {}
        group = group[key]
    group[path[-1]] = value
    return made


def dotted(path: tuple[str | int, ...]) -> str:
    """Return a path as it is written on the command line."""
    return ".".join(map(str, path))


def one_wrong(config: dict[str, Any], chance: random.Random) -> Bad:
    """Return a config with one wrong value, or one misspelt or unknown key."""
    path, part = chance.choice(leaves(config))
    if chance.random() < 0.2:
        parent, key = path[:-1], str(path[-1])
        other = chance.choice((key[:-1] + "_x", key + "s_of", key.upper() + "2", "nonsense", key + " "))
        made = put(config, (*parent, other), 1)
        return Bad(f"{dotted((*parent, other))} is unknown", (other.strip(),), values=made)
    value = chance.choice(wrong(part, path))
    words = tuple(str(key) for key in path[-2:] if isinstance(key, str))
    return Bad(f"{dotted(path)}={str(value)[:40]}", words, values=put(config, path, value))


def special(config: dict[str, Any]) -> list[Bad]:
    """Return configs that only their meaning forbids, and files that are no config."""
    text = yaml.safe_dump(config, sort_keys=False)
    put_in = [
        ("seed", -1), ("seed", 2**32), ("seed", 10**20), ("sweep.seeds", [-1]), ("sweep.seeds", [0, 0]),
        ("device", "cuda"), ("device", "gpu"), ("device", "quantum"), ("device", "mps"), ("device", "meta"), ("device", "cuda:99"),
        ("dtype", "float64"), ("dtype", "int8"), ("dtype", "nonsense"),
        ("methods", {}), ("methods", []), ("methods", {"nonsense": {}}), ("methods", {"a/b": {"method": "dpo-soup"}}),
        ("methods", {"dpo-soup": None}), ("methods", {5: {}}),
        ("preferences", []), ("preferences", 0), ("preferences", 1), ("preferences", ["good=2,kind=-1"]), ("preferences",
        ["good=0.5"]), ("preferences", ["nonsense=1"]), ("preferences", [""]), ("preferences", "good=1,kind=0"),
        ("evaluate.prompts", 1), ("evaluate.preferences", 1), ("evaluate.reference_point", {"good": 0.0}),
        ("evaluate.reference_point", {"good": float("nan"), "kind": 0.0}),
        ("evaluate.reference_point", {"good": 0.0, "kind": 0.0, "nonsense": 1.0}), ("evaluate.reference_point", {}),
        ("evaluate.extrapolations", ["good=0.5,kind=0.5,x=0"]), ("evaluate.extrapolations", ["nonsense"]),
        ("data.source", 5), ("data.source", "/nowhere/data.jsonl"), ("data.source", []), ("data.source", None), ("data.source",
        {"nonsense": 1}), ("data.test", "/nowhere.jsonl"), ("data.path", "/nowhere"),
        ("data.splits", {}), ("data.splits", {"train": 1.0}), ("data.splits", {"trian": 0.6, "validation": 0.2, "test": 0.2}),
        ("data.splits", {"train": 0.9, "validation": 0.9, "test": 0.9}), ("data.splits", {"train": -1.0, "validation": 1.0,
        "test": 1.0}), ("data.splits", {"train": float("nan"), "validation": 0.2, "test": 0.2}),
        ("data.limit", 1), ("folder", "a\0b"), ("folder", "x" * 5000), ("folder", "config.yaml"), ("folder", "/proc/nowhere"),
        ("model", "/nowhere"), ("model", ""), ("model", "../data.jsonl"), ("model", "a\0b"),
        ("score", []), ("score", [{"objective": "good"}]), ("score", [{"rule": "length"}]), ("score", [{"objective": "good",
        "rule": "nonsense"}]), ("score", [{"objective": "good", "rule": "regex", "pattern": "("}]), ("score",
        [{"objective": "", "rule": "length"}]),
        ("score", [{"objective": "good", "rule": "length"}, {"objective": "good", "rule": "length"}]), ("score",
        [{"objective": "a", "rule": "length", "model": "b"}]), ("score", [{"objective": "a", "function": "nowhere:nothing"}]),
        ("score", [{"objective": "a", "head": "/nowhere"}]), ("score", 5), ("score", [5]), ("score", {"objective": "a"}),
        ("objectives", ["nonsense"]), ("objectives", ["good"]), ("objectives", ["good", "good"]), ("trackers", ["nonsense"]),
        ("serve.floors", {"nonsense": 0.1}), ("serve.floors", {"good": 0.8, "kind": 0.8}), ("serve.floors", {"good": -1.0}),
        ("serve.preference", "nonsense=1"), ("serve.policies", ["nonsense"]),
        ("processes", 7), ("train.beta", 1), ("methods.dpo-soup.beta", 0), ("train.clip_norm", 0), ("train.learning_rate", 0),
        ("train.warmup_ratio", 1.5), ("train.targets", "all-nonsense"), ("train.targets", ["nonsense_proj"]),
        ("train.max_tokens", 1), ("sampling.top_p", 0), ("sampling.top_p", 1.5), ("sampling.temperature", -0.1),
        ("endpoint", {"url": "nonsense"}), ("endpoint", {"url": "http://127.0.0.1:9", "policies": {"nonsense": "x"}}),
        ("endpoint", {}),
    ]  # fmt: skip
    made = []
    for key, value in put_in:
        path = tuple(key.split("."))
        words = (*path[-2:], value) if key in PLACES and isinstance(value, str) and value else path[-2:]
        made.append(Bad(f"{key}={str(value)[:60]}", words, values=put(config, path, value)))
    deep = "a: " + "[" * 3000 + "]" * 3000
    laughs = "\n".join(
        [
            "a0: &a0 [x, x]",
            *(
                f"a{k + 1}: &a{k + 1} [*a{k}, *a{k}, *a{k}, *a{k}, *a{k}, *a{k}, *a{k}, *a{k}]"
                for k in range(12)
            ),
        ]
    )
    files = {
        "latin-1": (text + "name: M\xfcller\n").encode("latin-1"),
        "utf-16": text.encode("utf-16"),
        "binary": bytes(range(256)) * 8,
        "nested deeply": deep.encode(),
        "nested maps": ("".join("  " * k + f"a{k}:\n" for k in range(1500))).encode(),
        "references of references": laughs.encode(),
        "duplicate keys": (text + "seed: 1\nseed: 2\n").encode(),
        "duplicate keys inside": (text.replace("train:\n", "train:\n  steps: 3\n", 1)).encode(),
        "tabs": b"name:\tx\n\tseed: 1\n",
        "empty": b"",
        "a list": b"- a\n- b\n",
        "a number": b"5\n",
        "two documents": (text + "---\n" + text).encode(),
        "a Python object": (text + "name: !!python/object/apply:os.getcwd []\n").encode(),
        "an unknown tag": (text + "name: !nonsense x\n").encode(),
        "an open bracket": b"name: [\n",
        "an unknown reference": b"name: *x\n",
        "a list as key": b"? [a, b]\n: 1\n",
        "NUL": text.encode() + b"name: a\0b\n",
        "a date as key": (text + "2020-01-01: x\n").encode(),
    }
    return made + [
        Bad(f"a file with {name}", ("config.yaml", "YAML", "UTF-8", "duplicate", "twice"), raw)
        for name, raw in files.items()
    ]
