"""A first config for someone's own data: what the data hold decides what it says, and the plan decides its sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from paretune.core.errors import ConfigError, DataError
from paretune.core.progress import announce
from paretune.data.summary import Inspection, inspect
from paretune.reports.wording import duration
from paretune.runs.estimate import estimate
from paretune.runs.named_sources import NamedSource, load_together
from paretune.runs.parse import parse_config
from paretune.runs.plan import plan
from paretune.runs.prepare import check_splits, load_splits
from paretune.scoring.scorer import build_scorer

TOKENS_PER_WORD = 1.6
"""Tokens of a word, with some room: English has about 1.3."""
FEW = 100
"""Comparisons below which a head fitted to them tells little."""
SIZES = {"steps": (24, 200), "prompts": (32, 100)}
"""Least and most training steps, and held-out prompts, of a first run."""
SAMPLED = 4
"""Responses that are sampled to each prompt where the data hold none."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "concise": {"rule": "length", "unit": "words", "direction": "lower", "per": 10},
    "warm": {"rule": "sentiment"},
}
"""Objectives by a rule, for data that compare fewer than two."""


@dataclass(frozen=True)
class Subject:
    """Data that someone wants a config for.

    Attributes:
        source: What the config says under ``data.source``.
        shown: The data as they were given.
        facts: What they hold.
    """

    source: Any
    shown: str
    facts: Inspection

    @property
    def objectives(self) -> list[str]:
        """Names of what the data compare or score; the two that disagree most come first."""
        names = [summary.objective for summary in self.facts.objectives]
        if len(names) < 3:
            return names
        shares = np.triu(np.nan_to_num(np.array(self.facts.conflicts)), 1)
        first, second = (int(i) for i in np.unravel_index(int(shares.argmax()), shares.shape))
        first, second = (first, second) if first != second else (0, 1)
        return [names[first], names[second], *(n for i, n in enumerate(names) if i not in (first, second))]

    def comparisons(self, objective: str) -> int:
        """Return how many comparisons of two responses the data hold on an objective; for scores, how many they score."""
        summary = next(one for one in self.facts.objectives if one.objective == objective)
        return summary.comparisons or summary.count


def look(*sources: NamedSource) -> Subject:
    """Read data, and return what a config must know of them.

    Raises:
        DataError: The data cannot be read.
        ConfigError: Two files whose labels name no objective have the same name.
    """
    specs, dataset = load_together(sources)
    shown = ", ".join(source.shown for source in sources)
    return Subject(specs[0] if len(specs) == 1 else specs, shown, inspect(dataset))


def scorers(subject: Subject, objectives: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return objective -> its scorer, from ``NAME`` (one of the data) or ``NAME={rule: ...}``; at least two.

    Raises:
        ConfigError: An objective that the data do not hold has no scorer, or a scorer cannot be built.
    """
    held = subject.objectives
    chosen: dict[str, dict[str, Any]] = {}
    for text in objectives or held[:2]:
        name, sign, scorer = text.partition("=")
        if sign:
            try:
                chosen[name] = yaml.safe_load(scorer)
                build_scorer({"objective": name, **chosen[name]})
            except (yaml.YAMLError, TypeError) as error:
                raise ConfigError(
                    f"--objective {text!r}: expected NAME, or NAME={{rule: length, unit: words}} with its scorer"
                ) from error
        elif name in held:
            chosen[name] = {"head": "fit"}
        elif name in DEFAULTS:
            chosen[name] = DEFAULTS[name]
        else:
            raise ConfigError(
                f"the data say nothing of the objective {name!r}, only of: {', '.join(held) or 'none'}; choose among them, or give "
                f"what scores it: --objective '{name}={{rule: regex, pattern: ...}}'"
            )
    for name, rule in DEFAULTS.items():
        if len(chosen) < 2 and name not in chosen:
            chosen[name] = rule
    return chosen


def draft(
    subject: Subject, scored: Mapping[str, Mapping[str, Any]], model: str, name: str, minutes: float
) -> str:
    """Return a commented config for the data, whose sizes the plan says to take at most ``minutes`` on this machine.

    Args:
        subject: The data.
        scored: Objective -> its scorer.
        model: The base model.
        name: The run's name.
        minutes: Time that the run may take; the smallest sizes may take more, and the config says so.

    Raises:
        ParetuneError: The config cannot be run, such as for data with too few prompts.
    """
    held = [objective for objective in scored if objective in subject.objectives]
    pairs = min((subject.comparisons(objective) for objective in held), default=2 * subject.facts.prompts)
    sizes = {
        "steps": _within("steps", math.ceil(2 * pairs / 4)),
        "prompts": _within("prompts", max(1, subject.facts.prompts // 5)),
    }
    config = parse_config(yaml.safe_load(_text(subject, scored, model, name, sizes, "")))
    splits = load_splits(config)
    try:
        check_splits(config, splits)
    except DataError as error:
        raise DataError(f"{error}. Or say what else judges: --objective 'NAME={{rule: ...}}'") from error
    while True:
        text = _text(subject, scored, model, name, sizes, "")
        config = parse_config(yaml.safe_load(text))
        cost = estimate(plan(config, splits), config, model)
        seconds = cost.cost.seconds
        smaller = {key: max(SIZES[key][0], size // 2) for key, size in sizes.items()}
        if seconds <= 60 * minutes or all(smaller[key] >= sizes[key] for key in sizes):
            planned = _planned(seconds, minutes, "so not kept" in cost.device.assumptions)
            if seconds > 60 * minutes:
                announce(f"{name}: planned for {planned}")
            return _text(subject, scored, model, name, sizes, planned)
        sizes = {key: min(sizes[key], smaller[key]) for key in sizes}


def _within(what: str, count: int) -> int:
    least, most = SIZES[what]
    return max(least, min(most, count))


def _planned(seconds: float, minutes: float, busy: bool) -> str:
    more = (
        ""
        if seconds <= 60 * minutes
        else f"; more than the {minutes:g} minutes asked for, at the smallest sizes"
    )
    less = ", measured while other programs used it, so it may be less" if busy else ""
    return f"about {duration(seconds)} on this machine{less}{more}"


def _text(
    subject: Subject,
    scored: Mapping[str, Mapping[str, Any]],
    model: str,
    name: str,
    sizes: Mapping[str, int],
    planned: str,
) -> str:
    facts, lines = subject.facts, []
    held = ", ".join(f"{one} ({_amount(subject, one)})" for one in subject.objectives) or "no objective"
    longest = _tokens(facts.response_words.p95, 32, 256, 16)
    whole = _tokens(facts.prompt_words.p95 + _number(facts.response_words.p95), 256, 2048, 64)
    lines += [
        "# For completion in an editor: paretune config schema > schema.json",
        "# yaml-language-server: $schema=schema.json",
        f"# {subject.shown}: {facts.prompts} different prompts, {facts.responses} responses, {held}.",
        f"# Planned: {planned}. Every setting: paretune plan, paretune config schema, docs/data.md.",
        f"name: {_flow(name)}",
        f"model: {_flow(model)}    # an embedded name, a hub name, a folder with safetensors, or a GGUF file",
        "data:",
        *_source(subject.source),
        "  splits: {train: 0.7, validation: 0.1, test: 0.2}    # by prompt; fronts are measured on test",
    ]
    if not facts.responses:
        lines.append(
            f"  sample: {SAMPLED}    # the data have no responses: the base model writes this many to each prompt"
        )
    lines.append(f"objectives: {_flow(list(scored))}")
    lines.append(
        "score:    # what judges the held-out answers, one for each objective; other scorers: docs/data.md"
    )
    for objective, scorer in scored.items():
        lines.append(
            f"  - {_flow({'objective': objective, **scorer})}    # {_why(subject, objective, scorer)}"
        )
    lines += [
        "methods:",
        "  dpo-soup: {}    # one adapter per objective; answers at any preference",
        "  # panacea: {}    # one adapter for all preferences; paretune methods lists the others",
        "preferences: 5    # at which fronts are measured",
        "train:",
        f"  steps: {sizes['steps']}    # per adapter, of 4 pairs each",
        "  batch_pairs: 4",
        "  learning_rate: 2.0e-4",
        "  stop_below: 0.2    # a run ends when its held-out pairs are told apart",
        f"  max_tokens: {whole}    # prompt and response; 95 % of the data are shorter, longer pairs are left out",
        f"sampling: {{max_new_tokens: {longest}, temperature: 0.7, top_p: 0.95, batch_size: 64}}    # longer answers are cut",
        f"evaluate: {{prompts: {sizes['prompts']}}}    # held-out prompts; more make intervals narrower",
    ]
    return "\n".join(lines) + "\n"


def _source(source: Any) -> list[str]:
    """Return the lines of ``data.source``: one for each of several sources."""
    if not isinstance(source, list):
        return [f"  source: {_flow(source)}"]
    return ["  source:", *(f"    - {_flow(one)}" for one in source)]


def _why(subject: Subject, objective: str, scorer: Mapping[str, Any]) -> str:
    if scorer.get("head") != "fit":
        return "a rule" if "rule" in scorer else "as given"
    count = subject.comparisons(objective)
    few = f": few, {FEW} or more make a judge to trust" if count < FEW else ""
    return f"a judge fitted to what the data say ({_amount(subject, objective)}{few})"


def _amount(subject: Subject, objective: str) -> str:
    summary = next(one for one in subject.facts.objectives if one.objective == objective)
    return f"{summary.comparisons} comparisons" if summary.comparisons else f"{summary.count} scores"


def _number(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _tokens(words: float, least: int, most: int, step: int) -> int:
    """Return a length in tokens for one in words, rounded up to a multiple of ``step``, within bounds."""
    tokens = TOKENS_PER_WORD * words if words == words else most / 2
    return int(max(least, min(most, step * math.ceil(tokens / step))))


def _flow(value: Any) -> str:
    """Return a value as YAML in one line.

    >>> _flow({"rule": "regex", "pattern": "a: b"}), _flow("x y")
    ("{rule: regex, pattern: 'a: b'}", 'x y')
    """
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return re.sub(r"\n\.\.\.\n$", "", text).strip()
