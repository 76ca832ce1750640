"""Which method, how many prompts and how many steps: from what data hold, and from the effect and spread of a pilot run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paretune.core.errors import ParetuneError
from paretune.core.yaml_text import read_yaml
from paretune.data.summary import Inspection, inspect
from paretune.fronts.record import FILE, FrontRecord
from paretune.runs.named_sources import NamedSource, load_together

FEW = 100
"""Comparisons of an objective below which training and heads on them tell little: a rule of thumb."""
AGREE = 0.05
"""Share of conflicting pairs below which there is hardly anything to trade off: a rule of thumb."""
HELD_OUT = 0.2
"""Share of prompts that a run holds out by default."""
TARGETS = (0.2, 0.5)
"""Differences in deviations for which prompts are counted: small, and plain to a reader."""
SPREAD = 1.0
"""Assumed spread over prompts of the difference of two policies, in deviations, where no pilot tells it."""
SEEN = 1.96 + 0.84
"""Standard errors that a true difference must have to be seen at 95 % four times in five (large samples)."""
MOVED = 1.0
"""Movement for which steps are counted: one deviation of an answer's score."""
BEYOND = 10
"""A pilot says nothing of more than so many times its steps."""
STEPS = (100, 200)
"""Training steps of a first run where no pilot tells more: a rule of thumb."""
CONFIG = "config.yaml"


@dataclass(frozen=True)
class Choice:
    """A method with the reason for or against it."""

    method: str
    fits: bool
    why: str


@dataclass(frozen=True)
class Advice:
    """What to do with data.

    Attributes:
        data: What they hold, in sentences.
        methods: Methods in the order in which to try them, then those that do not fit.
        prompts: How many prompts, in sentences.
        steps: How many steps, in sentences.
        basis: ``rules`` or ``pilot``: what the numbers rest on.
        unknown: What this cannot say, and what would.
    """

    data: tuple[str, ...]
    methods: tuple[Choice, ...]
    prompts: tuple[str, ...]
    steps: tuple[str, ...]
    basis: str
    unknown: tuple[str, ...]


def advise(sources: Sequence[NamedSource], run: Path | None = None, reward: bool = False) -> Advice:
    """Return what to do with data.

    Args:
        sources: One source or more, such as a file of pairs for each objective.
        run: The folder of a finished pilot run on such data.
        reward: Whether there is a function or model that scores any answer.

    Raises:
        DataError: The data cannot be read.
        ParetuneError: ``run`` is no finished run.
    """
    facts = inspect(load_together(sources)[1])
    pilot = None if run is None else _pilot(run)
    held_out = round(HELD_OUT * facts.prompts)
    return Advice(
        _holding(facts),
        tuple(_methods(facts, reward)),
        _prompts(held_out, pilot),
        _steps(pilot),
        "rules" if pilot is None else "pilot",
        _unknown(pilot),
    )


# The data


def _compared(facts: Inspection) -> dict[str, int]:
    return {one.objective: one.comparisons for one in facts.objectives if one.comparisons}


def _scored(facts: Inspection) -> list[str]:
    return [one.objective for one in facts.objectives if one.count and not one.missing]


def _holding(facts: Inspection) -> tuple[str, ...]:
    per = facts.responses / max(1, facts.rows)
    told = [f"{facts.prompts:,} different prompts, {per:.1f} responses to each"]
    for one in facts.objectives:
        parts = [f"{one.comparisons:,} comparisons"] if one.comparisons else []
        parts += [f"{one.count:,} scores"] if one.count else []
        told.append(f"{one.objective}: {' and '.join(parts) or 'nothing'}")
    shares = _conflicts(facts)
    for (first, second), share in shares.items():
        note = "; hardly anything to trade off, so the front will be short" if share < AGREE else ""
        told.append(f"{first} and {second} disagree on {share:.0%} of the pairs that both judge{note}")
    for name, count in _compared(facts).items():
        if count < FEW:
            told.append(
                f"{name}: fewer than {FEW} comparisons; a head fitted to them, and training on them, tell little"
            )
    return tuple(told)


def _conflicts(facts: Inspection) -> dict[tuple[str, str], float]:
    names = [one.objective for one in facts.objectives]
    shares = np.array(facts.conflicts, dtype=float)
    return {
        (names[i], names[j]): float(shares[i, j])
        for i in range(len(names))
        for j in range(i + 1, len(names))
        if shares.size and math.isfinite(shares[i, j])
    }


# The method


def _methods(facts: Inspection, reward: bool) -> list[Choice]:
    """Return all methods with whether the data have what they need, those to try first in front."""
    compared, scored = _compared(facts), _scored(facts)
    per, M = facts.responses / max(1, facts.rows), len(facts.objectives)
    judged = [one.objective for one in facts.objectives if one.comparisons or one.count]
    several = per >= 2 and len(judged) >= 2
    mixed = len(compared) == 1 and len(scored) >= 1 and set(scored) - set(compared)
    made: list[Choice] = []

    def add(method: str, fits: bool, yes: str, no: str) -> None:
        made.append(Choice(method, fits, yes if fits else no))

    pairs = "it needs pairs for two objectives: two responses to a prompt, compared or scored on each"
    if per == 0:
        pairs = "the data hold prompts alone; let the base model answer (data.sample=4), and score that"
    elif M < 2:
        pairs = "the data judge fewer than two objectives; add one by a rule or a reward model under score:"
    add(
        "dpo-soup",
        several,
        "one training for each objective, every preference afterwards for free: try it first",
        pairs,
    )
    add(
        "modpo",
        several or bool(mixed),
        "comparisons for one objective and scores for the others are what it is made for (margin: scores)"
        if mixed and not several
        else "one training for each preference; where the soup's middle is too low, it is the next to try",
        pairs,
    )
    add("mod", several, "the adapters of the soup, mixed at every token; M models run at once", pairs)
    add(
        "panacea", several, "one training for all preferences; cheaper than MODPO where there are many", pairs
    )
    add("dpo-lw", several, "the simplest baseline with one training for each preference", pairs)
    add(
        "sipo",
        several,
        "where objectives conflict often: it makes better pairs itself, which takes time",
        pairs,
    )
    add("spo", several, "one objective after the other, where the first must not be lost", pairs)
    add(
        "hpo",
        bool(compared) and (several or bool(mixed) or reward),
        "pairs for one objective and any scores for the others, of responses that need not be paired",
        pairs,
    )
    add(
        "mrpo",
        several,
        "as the soup, held near the other objectives' models or near references that you name",
        pairs,
    )
    add(
        "knowpat",
        several and per > 2,
        "each objective ranks all responses to a prompt, and whole lists are trained on",
        "it needs lists: more than two responses to a prompt, ranked by each objective",
    )
    add(
        "spa",
        several,
        "where few pairs are labelled: it samples and labels more itself, which takes time",
        pairs,
    )
    single = bool(scored) and len(scored) >= 2 and per >= 1
    scores = "it needs a score of every response on two objectives"
    add(
        "ric",
        single,
        "it learns from scored responses, and needs no pairs" + ("" if per >= 2 else ": the data have none"),
        scores,
    )
    add(
        "paretohqd",
        single and per >= 2,
        "it learns from the best of scored responses along rays",
        f"{scores}, and several responses to a prompt",
    )
    function = "it needs a function or model that scores any answer; say --reward if you have one"
    add(
        "morlhf",
        reward,
        "it learns from its own answers by the reward: slow, and strong where the reward can be trusted",
        function,
    )
    add("gdpo", reward, "as morlhf, with each reward scaled by itself", function)
    add(
        "mo-odpo",
        reward,
        "one on-policy training for every preference, by comparing two of its own answers",
        function,
    )
    add("rewarded-soup", reward, "one on-policy training for each objective, mixed as a soup", function)
    add(
        "bone-soup",
        reward,
        "as rewarded-soup, with each objective trained beside a little of the others",
        function,
    )
    add(
        "vas",
        reward,
        "the model stays as it is: values of its own answers guide its next tokens, as strongly as you choose afterwards",
        function,
    )
    words = "it needs two objectives with a scorer each; say --reward if you have functions or models that score any answer"
    add(
        "prompting",
        M >= 2 or reward,
        "nothing is trained: it asks for the objectives in words, and shows what training has to beat",
        words,
    )
    add("linear-alignment", M >= 2 or reward, "nothing is trained: it goes beyond what the words do", words)
    if reward and per == 0:
        made.sort(key=lambda choice: choice.method not in ("rewarded-soup", "morlhf", "gdpo"))
    return sorted(made, key=lambda choice: not choice.fits)


# The numbers


@dataclass(frozen=True)
class Pilot:
    """What a finished run tells.

    Attributes:
        name: Name of the run.
        prompts: Its held-out prompts.
        spread: Spread over prompts of the difference of a policy and the base model, in deviations; None without a comparison.
        steps: Its training steps, None where its config does not tell them.
        moved: (Policy, objective) -> movement with its bounds where the objective has most weight.
    """

    name: str
    prompts: int
    spread: float | None
    steps: int | None
    moved: Mapping[tuple[str, str], tuple[float, float, float]]


def _pilot(run: Path) -> Pilot:
    file = run / FILE
    if not file.is_file():
        raise ParetuneError(
            f"{run}: no {FILE}; expected the folder of a finished run, such as runs/quickstart"
        )
    record = FrontRecord.read(file)
    spreads = [
        test.detectable / SEEN * math.sqrt(test.prompts)
        for test in record.comparisons
        if test.second == "base" and math.isfinite(test.detectable)
    ]
    moved = {}
    for policy in record.policies:
        for objective in record.objectives:
            point = max(policy.points, key=lambda point: point.preference[objective])
            figure = point.movement.moved.get(objective) if point.movement else None
            if figure is not None and math.isfinite(figure.low):
                moved[policy.label, objective] = (figure.value, figure.low, figure.high)
    return Pilot(record.name, record.num_prompts, max(spreads, default=None), _steps_of(run), moved)


def _steps_of(run: Path) -> int | None:
    if not (run / CONFIG).is_file():
        return None
    values = read_yaml(run / CONFIG)
    train = values.get("train") if isinstance(values, dict) else None
    steps = train.get("steps") if isinstance(train, dict) else None
    return steps if isinstance(steps, int) else None


def enough(difference: float, spread: float) -> int:
    """Return how many held-out prompts show a true difference four times in five, both in deviations.

    >>> enough(0.5, 1.0), enough(0.2, 1.0)
    (32, 196)
    """
    return max(2, math.ceil(round((SEEN * spread / difference) ** 2, 6)))


def _prompts(held_out: int, pilot: Pilot | None) -> tuple[str, ...]:
    spread = SPREAD if pilot is None or pilot.spread is None else pilot.spread
    origin = (
        f"assumed: differences spread by {SPREAD:g} deviation over prompts"
        if pilot is None or pilot.spread is None
        else f"measured by {pilot.name} on {pilot.prompts} prompts: differences spread by {spread:.2f} deviations over prompts"
    )
    told = [
        f"{enough(target, spread)} held-out prompts show a difference of {target:g} deviations four times in five"
        for target in TARGETS
    ]
    visible = SEEN * spread / math.sqrt(max(2, held_out))
    told.append(
        f"with the default data.splits, these data hold out {held_out} prompts, which show differences from {visible:.2f} on"
    )
    told.append(f"to train on: at least {FEW} comparisons of each objective (a rule of thumb)")
    return (*told, origin)


def _steps(pilot: Pilot | None) -> tuple[str, ...]:
    if pilot is None or not pilot.moved:
        return (
            f"{STEPS[0]} to {STEPS[1]} steps for a first run: a rule of thumb, as the effect of steps on your data is not known "
            "before a pilot",
        )
    if pilot.steps is None:
        return (
            "the pilot's config does not tell its training steps (train.steps), so no number follows from it",
        )
    return tuple(_for_one(*name, *bounds, pilot.steps) for name, bounds in pilot.moved.items())


def _for_one(policy: str, objective: str, value: float, low: float, high: float, steps: int) -> str:
    """Return how many steps move one objective by one deviation, if movement grows with steps as it did in the pilot."""
    which = f"{policy}, {objective}: {value:+.2f} [{low:+.2f}, {high:+.2f}] deviations in {steps} steps"
    most = BEYOND * steps
    if high <= 0:
        return f"{which}: it moves the wrong way, so more steps are no cure; look at the scorer and the answers first"
    if low <= 0:
        least = _rounded(steps * MOVED / high)
        if least > most:
            return f"{which}: no movement is shown, and more than {most} steps would be needed; nothing sure follows"
        return f"{which}: no movement is shown; for one of {MOVED:g} at least about {least} steps, perhaps many more"
    if value >= MOVED:
        return f"{which}: it moves by more than {MOVED:g} already"
    wanted, fewest = (_rounded(steps * MOVED / bound) for bound in (value, high))
    most_needed = min(most, _rounded(steps * MOVED / low))
    if wanted > most:
        return f"{which}: for {MOVED:g} deviation more than {BEYOND} times its steps, of which a pilot says nothing"
    return f"{which}: for {MOVED:g} deviation about {wanted} steps ({fewest} to {most_needed}), if it goes on as it began"


def _rounded(steps: float) -> int:
    return int(float(f"{steps:.2g}"))


def _unknown(pilot: Pilot | None) -> tuple[str, ...]:
    told: Sequence[str] = (
        "whether the scorers judge as your readers do: a fitted head states its accuracy; votes in the studio show more",
        "whether it holds on another base model, or with another training seed: run it there, and use sweep.seeds",
        "where the movement ends: it grows more slowly with more steps, and texts may suffer",
    )
    if pilot is None:
        told = ("how strong the effect is on your data: make a pilot, and give it with --run", *told)
    return tuple(told)
