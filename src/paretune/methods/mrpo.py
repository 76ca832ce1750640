"""MRPO: multi-reference preference optimization, DPO whose reference is a mixture of several models.

Le et al. 2024 (arXiv 2405.16388). With p_0 the base model, p_1, .., p_K further references and a weight a:

    1. p_k is kept within a factor 1 +- eta of p_0, in log-probabilities; eta is divided between chosen and rejected
    2. log p = -log( a / p_0 + sum_k (1 - a) / K / p_k )             the weighted harmonic mean of whole responses' probabilities
    3. L = -log sigmoid( beta Delta log(pi / p) )                    DPO, from the base model

For each objective there is one such run. Its further references are the single-objective models of the other objectives, so that it
does not run away from what they learned, or any adapters and models that the settings name. A soup of the M adapters serves every
preference. ``weight: adaptive`` is the released code's ``a = |gap of p_1| / (|gap of p_1| + |gap of p_0|)`` for K = 1; it
reads the label of the pair that it weighs (arXiv 2512.10040).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from paretune.core.bounds import NotNegative, Share
from paretune.core.errors import ConfigError
from paretune.core.preference import Preference
from paretune.methods.base import Card, DPOConfig, Inputs, Method, Traits
from paretune.models.adapter import Adapter
from paretune.planning.cost import Passes
from paretune.planning.work import Fits, Stage, Work
from paretune.policies.policy import Policy
from paretune.training.lab import Lab
from paretune.training.loop import Training
from paretune.training.references import (
    Mix,
    Reference,
    adaptive_weight,
    clipped,
    is_adapter,
    mixed,
    open_reference,
    prompt_differs,
)
from paretune.training.token_tables import PairTable


@dataclass(frozen=True)
class MRPOConfig(DPOConfig):
    """The settings of MRPO, beside those of DPO.

    Attributes:
        references: Further references, each a folder with an adapter of the base model (``RUN/adapters/NAME/adapter``, or one of
            PEFT) or the name or folder of another model with the same tokenizer. Empty: the single-objective models of the other
            objectives.
        weight: Weight a of the base model in the mean, the rest being shared by the others; 1 is DPO. ``adaptive`` weighs each pair
            by how clearly the references tell its responses apart (one further reference only): it reads the label, and leaks it.
        mix: Mean of the references: the paper's ``harmonic``, or ``geometric``, the reference of MOD.
        eta: Largest share of the base model's log-probability by which that of a further reference may differ; more is clipped.
        clip: Whether ``eta`` is ``shared`` by chosen and rejected in proportion to their log-probabilities, as the released code
            does, or ``each`` has all of it.
    """

    references: tuple[str, ...] = ()
    weight: Share | Literal["adaptive"] = 0.5
    mix: Mix = "harmonic"
    eta: NotNegative = 0.1
    clip: Literal["shared", "each"] = "shared"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight != "adaptive" and not (isinstance(self.weight, int | float) and 0 <= self.weight <= 1):
            raise ConfigError(f"weight must be a number from 0 to 1, or adaptive, got {self.weight!r}")
        if "" in self.references:
            raise ConfigError("references holds an empty name; give folders of adapters, or models")


def train(inputs: Inputs, config: MRPOConfig) -> Policy:
    """Return the soup of one MRPO adapter per objective.

    Raises:
        ConfigError: No further reference, several with an adaptive weight, or one with another tokenizer.
        ModelError: A reference cannot be loaded.
    """
    lab = inputs.lab
    check(config, inputs.objectives, inputs.preferences)
    if config.weight == "adaptive":
        lab.say(
            "mrpo: weight: adaptive reads which response was chosen, so the reference knows the label of each pair "
            "(arXiv 2512.10040); a number does not"
        )
    named = [open_reference(lab, name) for name in config.references]
    for reference in named:
        if reference.lm is not None and prompt_differs(lab.lm, reference.lm):
            lab.say(
                f"mrpo: the reference {reference.name} reads prompts in the chat template of {lab.lm.name}, not in its own"
            )
    corners = {} if named else dict(zip(inputs.objectives, inputs.corners(config.single), strict=True))

    def fit(objective: str) -> Adapter:
        others = named or [Reference(name, model) for name, model in corners.items() if name != objective]
        tables = inputs.tables(objective, config)
        info = {
            "method": "mrpo",
            "objective": objective,
            "references": [other.name for other in others],
            "weight": config.weight,
            "mix": config.mix,
            "eta": config.eta,
        }
        table, kept = (referred(lab, table, others, config) for table in tables)
        return lab.fit_pairs(f"mrpo-{objective}", table, kept, config.loss, info)

    return Policy.soup("mrpo", lab.lm, inputs.objectives, [fit(name) for name in inputs.objectives])


def referred(lab: Lab, table: PairTable, others: Sequence[Reference], config: MRPOConfig) -> PairTable:
    """Return the table with the mixture as its reference, and say how many log-probabilities were clipped."""
    base, read = table.reference, [other.logps(lab, table) for other in others]
    weight = adaptive_weight(base, read[0]) if config.weight == "adaptive" else config.weight
    kept = [clipped(base, logps, config.eta, config.clip == "shared") for logps in read]
    for other, before, after in zip(others, read, kept, strict=True):
        if cut := int((before != after).sum()):
            lab.say(
                f"mrpo: {cut} of {after.numel()} log-probabilities under the reference {other.name} are off the base model's by "
                f"more than eta={config.eta:g} allows and were clipped"
            )
    return replace(table, reference=mixed(base, kept, weight, config.mix))


def work(run: Work, name: str, config: MRPOConfig, training: Training) -> list[Stage]:
    """Return the stages that train the single-objective models (without named references), read the pairs, and train."""
    stages = (
        []
        if config.references
        else run.corners(config.beta, config.pairs, training, nll=config.nll, anchor=config.anchor)
    )
    read: list[Passes] = []
    for objective in run.objectives:
        models: list[tuple[Any, int]] = [("base", 0)]
        models += [
            (("reference", name), training.rank if is_adapter(name) else 0) for name in config.references
        ]
        if not config.references:
            others = [j for j in run.objectives if j != objective]
            models += [(("dpo", j, config.beta, config.pairs, training), training.rank) for j in others]
        for model, columns in models:
            for part, limit in (("train", training.draws), ("validation", None)):
                texts = run.pair_texts(part, objective, config.pairs)
                read += run.scored(model, part, (objective, config.pairs), texts, columns, limit)
    if any(not is_adapter(name) for name in config.references):
        run.assumptions.append(
            "a reference of MRPO that is another model reads as fast as the base model, and takes as much memory beside it"
        )
    if read:
        stages.append(Stage("references", "log-probabilities of the references, kept", tuple(read)))
    table, held_out = (
        run.pair_texts(part, run.objectives[0], config.pairs) for part in ("train", "validation")
    )
    fits = Fits(training, table, training.rank, len(run.objectives), held_out)
    return [*stages, run.trained(f"train: {name}", "one per objective", fits)]


def check(config: MRPOConfig, objectives: Sequence[str], preferences: Sequence[Preference]) -> None:
    """Check that there are further references, and one of them for an adaptive weight.

    Raises:
        ConfigError: There are not.
    """
    count = len(config.references) or len(objectives) - 1
    if not count:
        raise ConfigError(
            f"references: MRPO takes the models of the other objectives where none are named, and the run has {objectives[0]!r} "
            "alone; name an adapter of the base model, or a model with its tokenizer"
        )
    if config.weight == "adaptive" and count > 1:
        raise ConfigError(
            f"weight: adaptive weighs the base model against one further reference, and here are {count}; give a number, or name "
            "one under references"
        )


METHOD = Method(
    MRPOConfig,
    train,
    work,
    Card(
        title="MRPO",
        paper="arXiv 2405.16388",
        needs="pairs for each objective; further references are the other objectives' models, or named adapters and models",
        runs="M of the soup, and M more; M with named references",
        enters="gates: the sum of one update per objective, weighted by the preference",
        family="pairs",
    ),
    traits=lambda config: Traits(beta=config.beta),
    check=check,
)
