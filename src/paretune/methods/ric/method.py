"""RiC, Rewards-in-Context: one model that reads the requested scores in its prompt.

Yang et al. 2024 (arXiv 2402.10207). r are scores, standardised over the offline responses; fmt(x, r) is x with r as tags.

    offline:  imitate y after fmt(x, r(x, y)), for all scored responses y
    online, for j = 1..iterations:
        draw prompts x and goals g: best in all objectives but one
        sample y from the model at fmt(x, g); score it; relabel it as fmt(x, r(x, y))
        keep the better responses of the offline set and of the new ones, each set by itself           (MORS)
        continue: imitate some of the kept offline responses and all kept new ones of iterations 1..j
    in use:   a preference w asks for the scores r_i = low_i + z_i(w) (high_i - low_i)

The body of the paper was not readable to us: the algorithm is that of the authors' released code. docs/methods/ric.md lists the
differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, get_args

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from paretune.core.bounds import Natural, Positive, Share, check_bounds
from paretune.core.errors import ConfigError, suggest
from paretune.methods.base import Card, Inputs, Method, Traits
from paretune.methods.ric.goal_answers import Goals, answered
from paretune.methods.ric.responses import Rated, rated, relabelled, tagged
from paretune.planning.lengths import Texts
from paretune.planning.work import Fits, Stage, Work
from paretune.policies.policy import Policy
from paretune.policies.prompts import (
    GOAL_DRAWS,
    Filter,
    Form,
    Map,
    Prompting,
    Reference,
    check_asking,
    gaussian_range,
    goals,
    mors,
)
from paretune.scoring.prompt_means import PromptMeans
from paretune.training.demonstrations import Demonstration
from paretune.training.lab import Lab
from paretune.training.loop import Training

MOST_PROMPTS = 20_000
"""Generations of an iteration in the released code."""

WITHOUT_TOKENS = (
    "form tokens trains embeddings, which no LoRA server takes, so no endpoint can draw its answers; use form levels, which writes "
    "the same tags as text, or take the method out of endpoint.stages"
)


@dataclass(frozen=True)
class RiCConfig:
    """Settings of Rewards-in-Context. The offline stage is trained by ``train``.

    Attributes:
        iterations: Number of online stages after the offline one; 0 for none.
        prompts: Number of training prompts that an iteration draws, with replacement; 0 draws as many as there are, at most 20000.
        keep_offline: Largest number of filtered offline responses that an iteration trains on.
        quantile: Quantile of each objective's scores from which on the filter keeps a response.
        filter: Rule by which responses are kept. ``released``: at or above the quantile in any objective. ``pareto``: as many, of
            the first non-dominated layers.
        map: Map from weights to requested scores: ``l2`` as in the released evaluation, ``linf``, ``linear``, or ``lambda``.
        lam: Lambda of the map ``lambda``, above 1.
        floor: Place in its range, from 0, the worst, to 1, that is requested of an objective without weight.
        form: Form of the tags: ``digits`` as ``<rm1_score> 1.2``, ``levels`` as ``<helpful: 7/10>``, or ``tokens``, which learns
            one token for each level.
        reference: Range of requested scores: that of the offline ``data``, or ``gaussian`` as released (clipped to the data's).
        temperature: Temperature of the online sampling; lengths are those of ``sampling``.
        top_p: Top-p of the online sampling.
        online_steps: Optimiser steps of an iteration; 0 is a fifth of ``train.steps``, as 4000 after 20000.
        online_rate_factor: Learning rate of an iteration as a share of the offline one, as 1e-5 after 1.414e-4.
    """

    iterations: Natural = 1
    prompts: Natural = 0
    keep_offline: Natural = 10_000
    quantile: Annotated[float, Ge(0), Lt(1)] = 0.7
    filter: Filter = "released"
    map: Map = "l2"
    lam: Annotated[float, Gt(1)] = 2.0
    floor: Share = 0.0
    form: Form = "digits"
    reference: Reference = "data"
    temperature: Annotated[float, Gt(0), Le(100)] = 0.7
    top_p: Annotated[float, Gt(0), Le(1)] = 0.9
    online_steps: Natural = 0
    online_rate_factor: Positive = 0.07

    def __post_init__(self) -> None:
        check_bounds(self)
        for name, kind in (("filter", Filter), ("reference", Reference)):
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(
                    f"unknown {name} {getattr(self, name)!r}; {suggest(str(getattr(self, name)), get_args(kind))}"
                )
        check_asking(self.map, self.lam, self.floor, self.form)


def train(inputs: Inputs, config: RiCConfig) -> Policy:
    """Return the policy of one adapter that is asked for scores in its prompt.

    Each training response, with its obtained scores, is one training prompt; validation responses choose the offline weights, and
    the online stages keep their last ones. An objective without a scorer needs scores in the data, and no iterations.

    Raises:
        ConfigError: an objective that a stage needs a scorer for has none, or an endpoint would have to draw with learned tags.
        DataError: a prompt that holds a tag.
        TrainingError: an iteration that is left with no response to train on; the adapter before it is kept on disk.
    """
    lab, objectives, seed = inputs.lab, inputs.objectives, inputs.lab.training.seed
    scorers = [scorer for scorer in inputs.scorers if scorer.objective in objectives]
    check_online(inputs, config)
    offline = rated(lab, inputs.train, objectives, scorers, "training data")
    held_out = rated(lab, inputs.validation, objectives, scorers, "validation data")
    prompting = prompting_of(lab, offline, objectives, config)
    facts = {"method": "ric", "objectives": list(objectives), "prompting": prompting.to_dict()}
    adapter = lab.fit_demonstrations(
        "ric-offline",
        relabelled(offline, prompting),
        relabelled(held_out, prompting),
        info=facts,
        tags=prompting.tags,
    )
    best = offline[mors(prompting.standardise(offline.scores), config.quantile, config.filter)]
    new: list[Demonstration] = []
    online: list[dict[str, Any]] = []
    for number in range(1, config.iterations + 1):
        asked = goals_of(inputs, config, prompting, offline.prompt_means, number)
        answers, counts = answered(inputs, adapter, asked, prompting, offline.prompt_means, number)
        kept = answers[mors(prompting.standardise(answers.scores), config.quantile, config.filter)]
        new += relabelled(kept, prompting)
        old = relabelled(best[chosen(len(best.items), config.keep_offline, seed, number)], prompting)
        lab.say(
            f"ric, iteration {number}: {counts}. The filter keeps {len(kept.items)} of {len(answers.items)} new responses and "
            f"{len(best.items)} of {len(offline.items)} training responses"
        )
        online.append({**vars(counts), "kept": len(kept.items)})
        with lab.trained_by(online_training(lab.training, config)):
            adapter = lab.fit_demonstrations(
                f"ric-online-{number}",
                old + new,
                start=adapter,
                info=facts | {"online": list(online)},
                tags=prompting.tags,
            )
    # A finished stage is found again under another map, which does not touch training: what is served is that of today.
    return Policy.prompted("ric", lab.lm, objectives, replace(adapter, info={**adapter.info, **facts}))


def check_online(inputs: Inputs, config: RiCConfig) -> None:
    """Raise a ConfigError where the online stage lacks a scorer, or its answers cannot be drawn by the endpoint."""
    if not config.iterations:
        return
    need = "ric, online stage, which scores new responses"
    inputs.scorers_of(inputs.objectives, need, ", or set methods.ric.iterations=0")
    if inputs.endpoint and config.form == "tokens":
        raise ConfigError(f"ric, online stage: {WITHOUT_TOKENS}")


def prompting_of(lab: Lab, offline: Rated, objectives: Sequence[str], config: RiCConfig) -> Prompting:
    """Return how scores stand in prompts; an objective on which all responses score alike is reported."""
    prompting = Prompting.of(
        objectives,
        offline.scores,
        config.reference,
        lab.training.seed,
        map=config.map,
        lam=config.lam,
        floor=config.floor,
        form=config.form,
    )
    for name in prompting.inert:
        lab.say(
            f"ric: all {len(offline.items)} training responses score alike on {name!r}: its tag always asks for the same, and "
            "its weight has no effect of its own"
        )
    return prompting


def online_training(training: Training, config: RiCConfig) -> Training:
    """Return the settings of the offline stage with the steps and the learning rate of an iteration."""
    steps = config.online_steps or max(1, round(training.steps / 5))
    return replace(training, steps=steps, learning_rate=training.learning_rate * config.online_rate_factor)


def chosen(count: int, most: int, seed: int, number: int) -> np.ndarray:
    """Return the sorted places of ``most`` of ``count`` responses, drawn by seed and iteration; all where there are fewer."""
    return np.sort(np.random.default_rng([seed % 2**32, number, 1]).permutation(count)[:most])


def goals_of(
    inputs: Inputs, config: RiCConfig, prompting: Prompting, prompt_means: PromptMeans, number: int
) -> Goals:
    """Return the prompts and the goals of an iteration, drawn by the run's seed and the number of the iteration."""
    lab, train = inputs.lab, inputs.train
    rng = np.random.default_rng([lab.training.seed % 2**32, number])
    asking = prompt_means.covered(train)
    count = config.prompts or min(MOST_PROMPTS, len(asking))
    rows = [asking[n] for n in rng.integers(len(asking), size=count)]
    low, high = np.array(prompting.low), np.array(prompting.high)
    if config.reference == "gaussian":
        low, high = gaussian_range(len(low), GOAL_DRAWS, lab.training.seed + number)
    scores = np.clip(goals(count, low, high, rng), prompting.least, prompting.most)
    prompts = [
        tagged(prompting, row.prompt, goal, row.source or "row")
        for row, goal in zip(rows, scores, strict=True)
    ]
    seeds = rng.integers(2**62, size=count).tolist()
    sampling = replace(inputs.sampling, temperature=config.temperature, top_p=config.top_p)
    return Goals(rows, scores, prompts, seeds, sampling)


def work(run: Work, name: str, config: RiCConfig, training: Training) -> list[Stage]:
    """Return the offline stage, and for each iteration the answers and the training on them."""
    tags = tag_tokens(run, config)

    def tagged_texts(part: str) -> Texts:
        texts = run.demonstrations(part)
        return replace(texts, prompt=texts.prompt + tags, longest=texts.longest + tags)

    texts, rank = tagged_texts("train"), training.rank
    offline = Fits(training, texts, rank, held_out=tagged_texts("validation"))
    stages = [run.trained(f"train: {name}, offline", "for all preferences", offline)]
    answers = config.prompts or min(MOST_PROMPTS, run.rows["train"].count)
    online = Fits(online_training(training, config), texts, rank)
    for number in range(1, config.iterations + 1):
        decodings = (run.decoding(answers, texts, rank),)
        what = f"{answers:.0f} answers to goals"
        stages.append(Stage(f"answers: {name}, {number}", what, decodings=decodings, judged=answers))
        stages.append(run.trained(f"train: {name}, online {number}", "for all preferences", online))
    return stages


def tag_tokens(run: Work, config: RiCConfig) -> int:
    """Return the tokens that tags add to a prompt: counted at one prompt with typical scores; a learned tag is one token."""
    M = len(run.objectives)
    if config.form == "tokens":
        return M
    prompting = Prompting.of(run.objectives, np.array([[0.0] * M, [1.0] * M]), form=config.form)
    prompt = run.splits["train"].rows[0].prompt
    return run.count.prompt(tagged(prompting, prompt, np.full(M, -0.4), "row 0")) - run.count.prompt(prompt)


def traits(config: RiCConfig) -> Traits:
    """Return what the rest of the library must know of RiC."""
    refusal = WITHOUT_TOKENS if config.iterations and config.form == "tokens" else ""
    return Traits("all", prompted=True, refusal=refusal)


METHOD = Method(
    RiCConfig,
    train,
    work,
    Card(
        title="Rewards-in-Context",
        paper="arXiv 2402.10207",
        needs="scored responses, and scorers for the online stage",
        runs="1, in an offline and an online stage",
        enters="prompt: the scores that a preference asks for",
        family="scores",
    ),
    traits,
    staged=True,
)
