"""Command lines that must be refused, each with what the message must name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from support.bad_configs import BASE
from support.world import make_dataset

LONG = "n" * 300


@dataclass(frozen=True)
class BadCommand:
    """A command line that must be refused.

    Attributes:
        arguments: The arguments; ``{place}`` stands for the folder that :func:`write_place` fills.
        names: What the message must name.
    """

    arguments: tuple[str, ...]
    names: str

    def at(self, place: Path) -> tuple[str, ...]:
        """Return the arguments for a place."""
        return tuple(argument.replace("{place}", str(place)) for argument in self.arguments)


def write_place(place: Path) -> None:
    """Write what the commands name: a config, data, an empty run, a policy without model, files of the user."""
    (place / "config.yaml").write_text(yaml.safe_dump({**BASE, "folder": str(place / "run")}))
    (place / "empty").mkdir()
    (place / "mine.txt").write_text("mine")
    (place / "broken.yaml").write_text("name: [")
    (place / "loras").mkdir()
    (place / "loras" / "manifest.json").write_text("{}")
    make_dataset(12).write(place / "data.jsonl")
    policy = place / "policies" / "soup"
    policy.mkdir(parents=True)
    facts = {
        "name": "soup",
        "model": "nowhere/none",
        "base": "x",
        "objectives": ["concise", "warm"],
        "mix": "soup",
    }
    (policy / "policy.json").write_text(json.dumps(facts))


def bad_commands() -> list[BadCommand]:
    """Return all bad command lines."""
    return [*_numbers(), *_by_hand()]


def _numbers() -> Iterator[BadCommand]:
    """Yield a wrong number for each option that is one."""
    generate = ("generate", "{place}/policies/soup", "Hi", "-p", "concise=1")
    sample = ("data", "sample", "{place}/data.jsonl", "{place}/out.jsonl")
    chat = ("chat", "{place}/policies/soup")
    serve = ("serve", "{place}")
    for command, options in {
        generate: {
            "--max-new-tokens": ("0", "-1", "1e12", "many", ""),
            "--temperature": ("-1", "hot", "nan", "1e9"),
            "--seed": ("-1", "1e23", "1.5", str(2**70), "x"),
        },
        sample: {
            "--responses": ("0", "-1", "many"),
            "--max-new-tokens": ("0", "1.5"),
            "--temperature": ("-0.1", "nan", "hot"),
            "--top-p": ("0", "1.1", "nan"),
            "--batch-size": ("0", "x"),
            "--limit": ("-1", "all"),
            "--seed": ("-1", str(2**32), "1e3"),
            "--concurrency": ("0", "x"),
        },
        chat: {"--max-tokens": ("0", "x"), "--temperature": ("-1", "nan"), "--seed": ("-1", str(2**40))},
        serve: {
            "--port": ("-1", "65536", "http"),
            "--max-connections": ("0", "x"),
            "--max-tokens": ("0", "x"),
            "--max-prompt-tokens": ("0", "-5"),
            "--max-rows": ("0", "1.5"),
            "--queue": ("0", "x"),
            "--timeout": ("0", "-1", "nan", "soon"),
        },
        ("choose", "{place}/empty"): {"--dial": ("x", "1.5")},
        ("data", "select", "{place}/data.jsonl"): {
            "--k": ("0", "-1", "x"),
            "--preferences": ("1", "0", "x"),
            "--layers": ("0", "x"),
            "--normalize": ("max", ""),
        },
        ("export", "{place}/policies/soup", "{place}/new"): {"--grid": ("1", "-3", "x", "1000000000")},
        ("front", "{place}/config.yaml"): {"--alpha": ("0", "1", "nan", "x")},
    }.items():
        for option, values in options.items():
            for value in values:
                yield BadCommand((*command, option, value), option.removeprefix("--").replace("-", "[-_]"))


def _by_hand() -> Iterator[BadCommand]:
    policy = "{place}/policies/soup"
    for arguments, names in (
        (("rnu",), "rnu"),
        (("--nothing",), "--nothing"),
        (("data", "inspct"), "inspct"),
        (("run",), "CONFIG"),
        (("run", "{place}/none.yaml"), "none.yaml"),
        (("run", "{place}/empty"), "empty"),
        (("run", "{place}/broken.yaml"), "broken.yaml"),
        (("run", "{place}/mine.txt"), "mine.txt"),
        (("run", "{place}/" + LONG), "nnnn"),
        (("run", "{place}/config.yaml", "train.steps"), "train.steps"),
        (("run", "{place}/config.yaml", "train.steps=["), "train.steps"),
        (("run", "{place}/config.yaml", "train.steps=-1"), "train.steps"),
        (("run", "{place}/config.yaml", "seed=-1"), "seed"),
        (("run", "{place}/config.yaml", "device=quantum"), "quantum"),
        (("run", "{place}/config.yaml", "--device", "quantum"), "quantum"),
        (("run", "{place}/config.yaml", "--dtype", "float99"), "float99"),
        (("run", "{place}/config.yaml", "device=xpu:99"), "xpu:99"),
        (("run", "{place}/config.yaml", "device=cpu", "attention=varlen"), "varlen"),
        (("run", "{place}/config.yaml", "device=cpu", "attention=flex"), "flex"),
        (("run", "{place}/config.yaml", "data.source={place}/none.jsonl"), "none.jsonl"),
        (("run", "{place}/config.yaml", "data.source={place}/mine.txt"), "mine.txt"),
        (
            (
                "run",
                "{place}/config.yaml",
                "score=[{objective: a, rule: length}, {objective: b, function: none_such:f}]",
            ),
            "none_such",
        ),
        (
            (
                "run",
                "{place}/config.yaml",
                "score=[{objective: a, rule: length}, {objective: b, head: {place}/empty}]",
            ),
            "empty",
        ),
        (("run", "{place}/config.yaml", "score=[]"), "score"),
        (("run", "{place}/config.yaml", "--dry"), "--dry"),
        (("plan", "{place}/none.yaml"), "none.yaml"),
        (("plan", "{place}/config.yaml", "--device", "h900"), "h900"),
        (("plan", "{place}/config.yaml", "--device", "0xh100"), "0xh100"),
        (("plan", "{place}/config.yaml", "--device", ""), "device"),
        (("plan", "{place}/config.yaml", "--model", "{place}/none", "--device", "h100"), "none"),
        (
            ("data", "sample", "quickstart-prompts", "{place}/new.jsonl", "--responses", "1" + "0" * 30),
            "--responses",
        ),
        (("data", "sample", "quickstart-prompts", "{place}/new.jsonl", "--device", ""), "device ''"),
        (
            (
                "score",
                "rate",
                "quickstart",
                "{place}/new.jsonl",
                "--scorer",
                "{objective: a, rule: length}",
                "--device",
                "0xh100",
            ),
            "0xh100",
        ),
        (("sweep", "{place}/none.yaml"), "none.yaml"),
        (("sweep", "{place}/config.yaml", "sweep.seeds=[0,0]"), "sweep.seeds"),
        (("sweep", "{place}/config.yaml", "sweep.retries=-1"), "sweep.retries"),
        (("sweep", "{place}/config.yaml", "--device", "quantum"), "quantum"),
        (("front", "{place}/config.yaml", "--device", "quantum"), "quantum"),
        (("quickstart", "--device", "quantum"), "quantum"),
        (("quickstart", "--dtype", "float99"), "float99"),
        (("front", "{place}/config.yaml", "--adapter", "x"), "--adapter"),
        (("front", "{place}/config.yaml", "--adapter", "=x"), "--adapter"),
        (("front", "{place}/config.yaml", "--adapter", "a={place}/none"), "none"),
        (("front", "{place}/config.yaml", "--adapter", "a={place}/empty"), "empty"),
        (("front", "{place}/config.yaml", "--by", "vote"), "--by"),
        (("front", "{place}/config.yaml", "--divergence", "kl"), "divergence"),
        (("add-objective", "{place}/empty", "polite", "--score", "{rule: length}"), "config.yaml"),
        (("add-objective", "{place}/none", "polite", "--score", "{rule: length}"), "none"),
        (("add-objective", "{place}/empty", "polite", "--score", "length"), "--score"),
        (("add-objective", "{place}/empty", "polite", "--score", "{rule: ["), "--score"),
        (("add-objective", "{place}/empty", "polite"), "--score"),
        (("generate",), "POLICY"),
        (("generate", policy, "Hi"), "--preference"),
        (("generate", policy, "Hi", "-p", "concise=0.9"), "concise=0.9"),
        (("generate", policy, "Hi", "-p", "polite=1"), "polite"),
        (("generate", policy, "Hi", "-p", "concise"), "nowhere/none"),
        (("generate", policy, "Hi", "-p", ""), "preference"),
        (("generate", policy, "Hi", "-p", "concise=x,warm=1"), "concise"),
        (("generate", policy, "Hi", "-p", "concise=1.2,warm=-0.2"), "warm"),
        (("generate", policy, "Hi\udcff", "-p", "concise=1"), "UTF-8"),
        (("generate", "{place}/none", "Hi", "-p", "concise=1"), "policy.json"),
        (("generate", "{place}/" + LONG, "Hi", "-p", "concise=1"), "nnnn"),
        (("generate", "{place}/mine.txt", "Hi", "-p", "concise=1"), "mine.txt"),
        (("export", policy), "FOLDER"),
        (("export", policy, "{place}/new"), "--preference"),
        (("export", policy, "{place}/new", "-p", "concise=1", "--grid", "3"), "--grid"),
        (("export", policy, "{place}/new", "-p", "concise=0.9"), "concise=0.9"),
        (("export", policy, "{place}/new", "-p", "polite=1"), "polite"),
        (("export", policy, "{place}/new", "-p", "concise=1", "--format", "onnx"), "--format"),
        (("export", policy, "{place}/new", "--grid", "3", "--format", "dense"), "--format"),
        (("export", policy, "{place}/mine.txt", "--grid", "3"), "mine.txt"),
        (("export", policy, "{place}/mine.txt", "-p", "concise=1"), "mine.txt"),
        (("export", policy, "{place}/" + LONG, "-p", "concise=1"), "nnnn"),
        (("export", "{place}/none", "{place}/new", "-p", "concise=1"), "none"),
        (("export", "{place}/empty", "{place}/new", "-p", "concise=1"), "empty"),
        (("export", "{place}", "{place}/new", "-p", "concise=1", "--policy", "sop"), "sop"),
        (("serve",), "--upstream"),
        (("serve", "--upstream", "http://127.0.0.1:1/v1"), "--manifest"),
        (("serve", "--manifest", "{place}/loras/manifest.json"), "--upstream"),
        (("serve", "--upstream", "ftp://x", "--manifest", "{place}/loras/manifest.json"), "ftp://x"),
        (
            (
                "serve",
                "--upstream",
                "http://x",
                "--manifest",
                "{place}/loras/manifest.json",
                "--upstream-kind",
                "tgi",
            ),
            "tgi",
        ),
        (("serve", "--upstream", "http://x", "--manifest", "{place}/none.json"), "none.json|manifest.json"),
        (("serve", "{place}/none"), "none"),
        (("serve", "{place}/empty"), "empty"),
        (("serve", "{place}", "--policy", "sop"), "sop"),
        (("serve", "{place}", "--floor", "warm"), "warm"),
        (("serve", "{place}", "--floor", "polite=0.2"), "polite"),
        (("serve", "{place}", "--floor", "warm=2"), "warm"),
        (("serve", "{place}", "--preference", "concise=2"), "concise"),
        (("serve", "{place}", "--api-key-file", "{place}/none.txt"), "none.txt"),
        (("choose",), "RUN"),
        (("choose", "{place}/empty"), "front.json"),
        (("choose", "{place}/none"), "none"),
        (("choose", "{place}/none.json"), "none.json"),
        (("choose", "{place}/loras/manifest.json"), "manifest.json"),
        (("choose", "{place}/" + LONG), "nnnn"),
        (("chat", "{place}/none"), "none"),
        (("chat", policy, "-p", "concise=2"), "concise"),
        (("data", "inspect"), "SOURCE"),
        (("data", "inspect", "{place}/none.jsonl"), "none.jsonl"),
        (("data", "inspect", "hh-rlfh"), "hh-rlfh"),
        (("data", "inspect", "{place}/broken.yaml"), "broken.yaml"),
        (("data", "inspect", "{place}/" + LONG), "nnnn"),
        (("data", "convert", "{place}/data.jsonl", "{place}/out.txt"), "out.txt"),
        (("data", "convert", "{place}/none.jsonl", "{place}/out.jsonl"), "none.jsonl"),
        (("data", "convert", "{place}/data.jsonl", "{place}/mine.txt/out.jsonl"), "mine.txt"),
        (("data", "sample", "{place}/data.jsonl", "{place}/out.jsonl", "--endpoint", "nowhere"), "nowhere"),
        (("data", "sample", "{place}/data.jsonl", "{place}/out.jsonl", "--dtype", "float99"), "float99"),
        (("data", "sample", "{place}/data.jsonl", "{place}/out.jsonl", "--device", "quantum"), "quantum"),
        (
            ("data", "sample", "{place}/data.jsonl", "{place}/out.jsonl", "--chat-template", "no"),
            "--chat-template",
        ),
        (
            ("data", "sample", "{place}/data.jsonl", "{place}/out.jsonl", "--chat-template", "{{a"),
            "--chat-template",
        ),
        (("data", "sample", "{place}/data.jsonl", "{place}/out.jsonl", "--model", "{place}/none"), "none"),
        (("data", "from-votes", "{place}/none.sqlite", "{place}/out.jsonl"), "none.sqlite"),
        (("pal", "fit", "{place}/data.jsonl", "{place}/pal"), "a vote without a user id"),
        (("pal", "fit", "{place}/none.sqlite", "{place}/pal"), "none.sqlite"),
        (("pal", "fit", "{place}/data.jsonl", "{place}/pal", "-k", "0"), "prototypes"),
        (("pal", "show", "{place}/nowhere", "{place}/data.jsonl"), "paretune pal fit"),
        (("pal", "name", "{place}/nowhere", "a,b"), "paretune pal fit"),
        (("pal", "users", "{place}/nowhere", "{place}/data.jsonl"), "paretune pal fit"),
        (("score", "fit", "{place}/data.jsonl", "--folder", "{place}/head"), "--objective"),
        (
            ("score", "fit", "{place}/data.jsonl", "--objective", "polite", "--folder", "{place}/head"),
            "polite",
        ),
        (("score", "fit", "{place}/data.jsonl", "--objective", "short", "--folder", "{place}/head"), "short"),
        (
            ("score", "fit", "{place}/none.jsonl", "--objective", "short", "--folder", "{place}/head"),
            "none.jsonl",
        ),
        (("config", "schma"), "schma"),
    ):
        yield BadCommand(arguments, names)
