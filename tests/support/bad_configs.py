"""Configs that must be refused before anything is read, each with the key that the message must name."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, nan
from typing import Any

import yaml

from paretune.core.bounds import bounds_of
from paretune.core.sampling import Sampling
from paretune.core.settings import known_keys
from paretune.core.settings_words import options
from paretune.methods import METHODS
from paretune.runs.config import DataConfig, EvaluateConfig, Resources, RunConfig, SweepConfig
from paretune.training.loop import Training

BASE: dict[str, Any] = {
    "name": "bad",
    "score": [
        {"objective": "concise", "rule": "length"},
        {"objective": "warm", "rule": "sentiment"},
    ],
    "methods": {"dpo-soup": {}},
}
"""A config that is right; each bad one changes it in one place."""


@dataclass(frozen=True)
class BadConfig:
    """A config that must be refused.

    Attributes:
        name: What is wrong, in short.
        content: The bytes of the file.
        key: What the message must name.
        overrides: Overrides of the command line.
    """

    name: str
    content: bytes
    key: str
    overrides: tuple[str, ...] = ()


def bad_configs() -> list[BadConfig]:
    """Return all bad configs: one for every way in which each number can be wrong, and those written by hand."""
    cases = [*_of_numbers(), *_by_hand(), *_of_files(), *_of_overrides()]
    return list({(case.content, case.overrides): case for case in cases}.values())


def changed(path: str, value: Any) -> bytes:
    """Return the base config with one value set, as the content of a file."""
    values = copy.deepcopy(BASE)
    *parents, leaf = path.split(".")
    group = values
    for parent in parents:
        group = group.setdefault(parent, {})
    group[leaf] = value
    return yaml.safe_dump(values, sort_keys=False).encode()


def _of_numbers() -> Iterator[BadConfig]:
    groups: dict[str, Any] = {
        "": RunConfig,
        "data": DataConfig,
        "evaluate": EvaluateConfig,
        "sweep": SweepConfig,
        "sweep.resources": Resources,
        "train": Training,
        "sampling": Sampling,
    } | {f"methods.{name}": method.config for name, method in METHODS.items()}
    for where, kind in groups.items():
        for key, hint in known_keys(kind).items():
            if (where, key) == ("train", "seed"):
                continue
            path = f"{where}.{key}".removeprefix(".")
            for value in _wrong_numbers(hint):
                yield BadConfig(f"{path}={value!r:.20}", changed(path, value), path)


def _wrong_numbers(hint: Any) -> Iterator[Any]:
    """Yield values that a number must not have: of another kind, not finite, and just out of each bound."""
    kinds = [kind for kind in options(hint) if kind is not type(None)]
    if kinds not in ([int], [float]):
        return
    yield from ("many", True, [1], nan, inf)
    for bound in bounds_of(hint):
        (name,) = [field for field in ("ge", "gt", "le", "lt") if hasattr(bound, field)]
        edge = getattr(bound, name)
        step = 1 if kinds == [int] else 0.5
        yield {"ge": edge - step, "gt": edge, "le": edge + step, "lt": edge}[name]


def _by_hand() -> Iterator[BadConfig]:
    cases: list[tuple[str, Any, str]] = [
        ("preferences", 1, "preferences"),
        ("preferences", 0, "preferences"),
        ("preferences", -3, "preferences"),
        ("preferences", 10**9, "preferences"),
        ("preferences", [], "preferences"),
        ("preferences", ["concise=0.9"], "preferences[0]"),
        ("preferences", ["concise=1", "concise=1"], "preferences[1]"),
        ("preferences", ["concise=0.5,polite=0.5"], "polite"),
        ("preferences", ["concise=nan,warm=1"], "preferences[0]"),
        ("preferences", ["concise=1.2,warm=-0.2"], "preferences[0]"),
        ("preferences", "concise", "preferences"),
        ("preferences", [3], "preferences[0]"),
        ("preferences", {"concise": 1}, "preferences"),
        ("evaluate.preferences", 1, "evaluate.preferences"),
        ("evaluate.prompts", 1, "evaluate.prompts"),
        ("evaluate.resamples", 1, "evaluate.resamples"),
        ("evaluate.resamples", 10**7, "evaluate.resamples"),
        ("evaluate.reference_point", {"concise": -9}, "warm"),
        ("evaluate.reference_point", {"concise": -9, "warm": nan}, "evaluate.reference_point.warm"),
        ("evaluate.reference_point", {"concise": -9, "warm": 0, "polite": 1}, "polite"),
        ("evaluate.reference_point", {"concise": -9, "wram": 0}, "wram"),
        ("evaluate.reference_point", [-9, 0], "evaluate.reference_point"),
        ("evaluate.reference_point", {"concise": "low", "warm": 0}, "evaluate.reference_point.concise"),
        ("evaluate.extrapolations", ["concise=0.5,warm=0.5"], "evaluate.extrapolations"),
        ("evaluate.extrapolations", ["concise=1.2"], "evaluate.extrapolations[0]"),
        ("evaluate.samples", 10**16, "evaluate.samples"),
        ("methods", {}, "methods"),
        ("methods", None, "methods"),
        ("methods", ["modpo"], "methods"),
        ("methods", {"modpo": 3}, "methods.modpo"),
        ("methods", {"modop": {}}, "modop"),
        ("methods", {1: {}}, "methods"),
        ("methods.modpo", {"method": "panacea"}, "methods.modpo.method"),
        ("methods.modpo", {"objective": "polite"}, "polite"),
        ("methods.modpo", {"margin_scale": {"polite": 1}}, "polite"),
        ("methods.modpo", {"margin_scale": {"warm": -1}}, "margin_scale.warm"),
        ("methods.modpo", {"link": "linear"}, "methods.modpo.link"),
        ("methods.modpo", {"train": {"rank": 0}}, "methods.modpo.train.rank"),
        ("methods.modpo", {"train": 3}, "methods.modpo.train"),
        ("serve", {"policies": ["nonsense"]}, "serve.policies[0]"),
        ("methods.modpo", {"train": {"targets": ["nonsense"]}}, "methods.modpo.train.targets"),
        ("train", {"targets": ["nonsense"]}, "train.targets"),
        ("train", {"targets": ["q_proj", "q_poj@3-"]}, "q_proj"),
        ("sampling", {"max_new_tokens": 10**12}, "sampling.max_new_tokens"),
        ("sampling", {"max_new_tokens": "1e12"}, "sampling.max_new_tokens"),
        ("methods.modpo", {"train": {"seed": -1}}, "methods.modpo.train.seed"),
        ("methods.modpo", {"standardise": "maybe"}, "methods.modpo.standardise"),
        ("methods.sipo", {"weights": []}, "weights"),
        ("methods.sipo", {"weights": ["concise=2"]}, "weights"),
        ("methods.sipo", {"templates": "no-such-file.yaml"}, "no-such-file.yaml"),
        ("methods.panacea", {"aggregation": "tchebycheff", "per": "row"}, "per: row"),
        ("methods.panacea", {"init": "zero"}, "methods.panacea.init"),
        ("methods.gdpo", {"aggregation": "sum"}, "methods.gdpo.aggregation"),
        ("methods.mod", {"divergence": "kl"}, "methods.mod.divergence"),
        ("methods.ric", {"filter": "best"}, "methods.ric.filter"),
        ("methods.paretohqd", {"k": 1}, "k must be at least 2"),
        ("methods.morlhf", {"responses": 1}, "methods.morlhf.responses"),
        ("methods.morlhf", {"responses": 10**15}, "methods.morlhf.responses"),
        ("seed", 2**32, "seed"),
        ("seed", 2**70, "seed"),
        ("seed", 1e20, "seed"),
        ("seed", "1e20", "seed"),
        ("seed", "1_0", "seed: expected a whole number"),
        ("train.learning_rate", "1_0e-4", "train.learning_rate: expected a number"),
        ("score", [{"objective": f"o{n}", "rule": "length"} for n in range(32)], "at most 31"),
        ("sweep.seeds", [1, -1], "sweep.seeds[1]"),
        ("sweep.seeds", [2**32], "sweep.seeds[0]"),
        ("sweep.seeds", [1, 1], "sweep.seeds"),
        ("sweep.seeds", 3, "sweep.seeds"),
        ("sweep.choose", "best", "sweep.choose"),
        ("device", "quantum", "quantum"),
        ("device", "meta", "meta"),
        ("device", "gpu", "cuda"),
        ("device", "cuda:x", "cuda:x"),
        ("device", 0, "device"),
        ("chat_template", "no thinking", "chat_template"),
        ("chat_template", {"enable thinking": False}, "enable thinking"),
        ("dtype", "float99", "dtype"),
        ("dtype", 32, "dtype"),
        ("attention", "eager", "attention"),
        ("attention", None, "attention"),
        ("sharding", "ddp", "sharding"),
        ("data.splits", {"train": 2, "test": 1}, "data.splits"),
        ("data.splits", {"train": 0.7, "test": 0.3}, "validation"),
        ("data.splits", {"train": 0.7, "validation": 0.1}, "test"),
        ("data.splits", {"trian": 0.7, "validation": 0.1, "test": 0.2}, "trian"),
        ("data.splits", {"train": 0.7, "validation": 0.7, "test": 0.2}, "data.splits"),
        ("data.splits", {"train": 0.7, "validation": 0, "test": 0.2}, "data.splits.validation"),
        ("data.splits", [0.7, 0.1, 0.2], "data.splits"),
        ("data.source", 5, "data.source"),
        ("data.source", [], "data.source"),
        ("data.source", "", "data.source"),
        ("data.source", ["quickstart", 5], "data.source[1]"),
        ("data.test", True, "data.test"),
        ("data.limit", "all", "data.limit"),
        ("data.sample", 10**16, "data.sample"),
        ("score", [{"objective": "concise", "rule": "lenght"}], "lenght"),
        ("score", [{"objective": "concise"}], "score[0]"),
        ("score", [{"rule": "length"}], "score[0]"),
        ("score", [{"objective": "concise", "rule": "length", "per": 0}], "per"),
        ("score", [{"objective": "concise", "rule": "length", "unti": "words"}], "unti"),
        ("score", [{"objective": "concise", "rule": "regex", "pattern": "("}], "pattern"),
        ("score", [{"objective": "concise", "function": "no_colon"}], "no_colon"),
        ("score", [{"objective": "a=b", "rule": "length"}], "a=b"),
        ("score", [{"objective": "concise", "rule": "length"}] * 2, "score[1]"),
        ("score", [{"objective": "concise", "rule": "length"}], "two objectives"),
        ("score", {"objective": "concise", "rule": "length"}, "score"),
        ("score", ["length"], "score[0]"),
        ("objectives", ["concise", "polite"], "polite"),
        ("objectives", ["concise", "concise"], "objectives"),
        ("objectives", ["concise"], "two objectives"),
        ("objectives", "concise", "objectives"),
        ("train", None, "train"),
        ("train", [1], "train"),
        ("train.targets", [], "targets"),
        ("train.targets", "", "targets"),
        ("train.targets", ["q_proj@x"], "q_proj@x"),
        ("train.targets", 3, "train.targets"),
        ("train.steps", 10**18, "train.steps"),
        ("train.batch_pairs", 10**18, "batch_pairs"),
        ("train.rank", 10**12, "train.rank"),
        ("train.seed", 3, "train.seed"),
        ("train.learning_rate", "1e-4x", "train.learning_rate"),
        ("sampling.max_new_tokens", 10**12, "sampling.max_new_tokens"),
        ("sampling", "greedy", "sampling"),
        ("trackers", ["wandbb"], "wandbb"),
        ("trackers", "wandb", "trackers"),
        ("serve.floors", {"concise": 0.7, "warm": 0.7}, "serve.floors"),
        ("serve.floors", {"polite": 0.1}, "polite"),
        ("serve.preference", "concise=2", "serve.preference"),
        ("serve.max_tokens", 0, "serve.max_tokens"),
        ("serve.temperature", "hot", "serve.temperature"),
        ("endpoint", "http://127.0.0.1", "endpoint"),
        ("endpoint", {"model": "x"}, "endpoint.url"),
        ("endpoint", {"url": "not an address"}, "not an address"),
        ("endpoint", {"url": "http://h/v1", "concurrency": 0}, "endpoint.concurrency"),
        ("endpoint", {"url": "http://h/v1", "policies": {"mod": "x@"}}, "endpoint.policies"),
        ("endpoint", {"url": "http://h/v1", "stages": ["dpo-soup"]}, "endpoint.stages"),
        ("name", 5, "name"),
        ("name", "", "name"),
        ("name", True, "name"),
        ("folder", "a\0b", "folder"),
        ("folder", ["x"], "folder"),
        ("model", "", "model"),
        ("model", None, "model"),
        ("trian", {}, "trian"),
        ("data.sorce", "x", "data.sorce"),
        ("evaluate", 3, "evaluate"),
    ]
    for path, value, key in cases:
        yield BadConfig(f"{path}={value!r:.50}", changed(path, value), key)


def _of_files() -> Iterator[BadConfig]:
    name = "config.yaml"  # the message names the file
    for what, content in {
        "empty": b"",
        "a comment": b"# nothing\n",
        "just a word": b"quickstart\n",
        "a list": b"[1, 2]\n",
        "a number": b"3\n",
        "binary": bytes(range(128, 256)),
        "latin-1": "name: caf\xe9\n".encode("latin-1"),
        "UTF-16": "name: x\n".encode("utf-16"),
        "a NUL": b"name: a\0b\n",
        "nested 3,000 deep": b"name: " + b"[" * 3000 + b"]" * 3000,
        "an open bracket": b"name: [\n",
        "an open quote": b'name: "x\n',
        "a tab": b"train:\n\tsteps: 3\n",
        "an unknown alias": b"name: *x\n",
        "a value within itself": b"score: &x [*x]\n",
        "aliases of aliases": _bomb(),
        "a python object": b"name: !!python/object/apply:os.getcwd []\n",
        "two documents": b"name: x\n---\nname: y\n",
        "an impossible date": b"name: 2024-13-45\n",
        "JSON cut short": b'{"name": "x", "train": {"steps": 3',
    }.items():
        yield BadConfig(f"file: {what}", content, name)
    yield BadConfig("file: a key twice", b"train: {steps: 3}\nseed: 1\ntrain: {steps: 4}\n", "'train'")
    yield BadConfig("file: an inner key twice", b"train: {steps: 3, rank: 2, steps: 4}\n", "'steps'")


def _bomb() -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    return "\n".join(lines).encode()


def _of_overrides() -> Iterator[BadConfig]:
    for text, key in {
        "train.steps=[": "train.steps=[",
        "name=*x": "name=*x",
        "name={": "name={",
        "name='x": "name='x",
        "train.steps": "train.steps",
        "=3": "=3",
        "train.steps.more=3": "train.steps",
        "train.stepps=3": "train.stepps",
        "methods.modop.beta=1": "modop",
        "train.steps=!!python/name:os.system": "train.steps",
        "train={steps: 3, steps: 4}": "'steps'",
        "evaluate.prompts=1": "evaluate.prompts",
        "seed=-1": "seed",
        "train.=3": "train.",
        ".=3": "unknown key",
    }.items():
        yield BadConfig(f"override {text}", yaml.safe_dump(BASE).encode(), key, (text,))
