"""The stages of training of each method, with what they read, write and draw; one function a method, in its paper's order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any

from paretune.core.preference import Preference
from paretune.methods.dpo import DPOConfig
from paretune.methods.dpo_lw import DPOLWConfig
from paretune.methods.mod import MODConfig
from paretune.methods.modpo import MODPOConfig, chosen_objective
from paretune.methods.morlhf import GDPOConfig, MORLHFConfig
from paretune.methods.panacea import PanaceaConfig
from paretune.methods.paretohqd.method import ParetoHqDConfig, representatives
from paretune.methods.ric.method import MOST_PROMPTS, RiCConfig, online_training
from paretune.methods.sipo.method import SIPOConfig, sampled_at
from paretune.planning.cost import Passes
from paretune.planning.lengths import Texts
from paretune.planning.work import Stage, Work, passes, reading
from paretune.runs.config import MethodConfig
from paretune.training.conditioning import Conditioning, draw_preferences
from paretune.training.loop import Training

TAGS = {"digits": "<rm1_score> -1.2", "levels": "<helpful: 7/10>", "tokens": ""}
"""A score in a prompt, by its form; a tag that is learned is one token."""
REVIEW_TOKENS = 120
"""Tokens of the texts that ask for a review or a rewrite, and of what a review adds."""
CONFLICTING = 0.5
"""Share of pairs on which objectives conflict, where labels are not known."""
DRAWS = 2000
"""Preferences that are drawn to see how many objectives a batch trains."""


def train_stages(work: Work, name: str) -> list[Stage]:
    """Return the stages that train the method under ``name`` of the config."""
    settings, training = work.config.method(name), work.config.training(name)
    return STAGES[type(settings)](work, name, settings, training)


def policy_columns(work: Work, name: str) -> tuple[int, ...]:
    """Return the columns of each adapter that the method's policy holds."""
    settings, rank = work.config.method(name), work.config.training(name).rank
    M = len(work.objectives)
    if isinstance(settings, PanaceaConfig):
        return (_conditioned_columns(settings, M),)
    if anchored(settings):
        return (rank,) * len(work.preferences)
    if isinstance(settings, MORLHFConfig):
        gates = settings.condition == "gates"
        return (_conditioned_columns(settings.conditioning(), M) if gates else rank,)
    return (rank,) * (1 if isinstance(settings, RiCConfig) else M)


def anchored(settings: MethodConfig) -> bool:
    """Return whether a method has an adapter a preference, and is measured at those and not between them."""
    if isinstance(settings, MORLHFConfig):
        return settings.form == "anchors"
    return isinstance(settings, MODPOConfig | DPOLWConfig | ParetoHqDConfig)


def extrapolates(settings: MethodConfig) -> bool:
    """Return whether a method's policy answers off the simplex, see :attr:`paretune.policies.policy.Policy.extrapolates`."""
    prompted = isinstance(settings, RiCConfig) or (
        isinstance(settings, MORLHFConfig) and settings.condition == "prompt"
    )
    return not anchored(settings) and not prompted


def copies_of(settings: MethodConfig, objectives: int) -> tuple[int, int]:
    """Return the copies of a row that are run at an inner preference, and the responses that are drawn for each."""
    if isinstance(settings, MODConfig):
        return objectives, settings.candidates
    mixed = isinstance(settings, SIPOConfig) and settings.serve == "mod"
    return (objectives if mixed else 1), 1


def _soup(work: Work, name: str, settings: DPOConfig | MODConfig, training: Training) -> list[Stage]:
    return work.dpo(settings.beta, settings.pairs, training)


def _modpo(work: Work, name: str, settings: MODPOConfig, training: Training) -> list[Stage]:
    stages = work.dpo(settings.beta, settings.pairs, training)
    most = training.steps * training.accumulate * training.batch_pairs
    runs, margins = 0, list[Passes]()
    for preference in work.preferences:
        k = chosen_objective(preference, settings)
        others = [j for j, weight in preference.as_dict().items() if j != k and weight > 0]
        runs += bool(others) or settings.link != "sigmoid"
        for j in others if settings.margin == "implicit" else []:
            who = ("dpo", j, settings.beta, settings.pairs, training)
            for part, limit in (("train", most), ("validation", None)):
                texts = work.pair_texts(part, k, settings.pairs)
                margins += work.scored(who, part, (k, settings.pairs), texts, training.rank, limit)
    if margins:
        stages.append(
            Stage("margins", "log-probabilities of the single-objective models, kept", tuple(margins))
        )
    if runs:
        stages.append(
            work.trained(
                f"train: {name}",
                "one an inner preference",
                training,
                work.pair_texts("train", work.objectives[0], settings.pairs),
                training.rank,
                runs=runs,
                held_out=work.pair_texts("validation", work.objectives[0], settings.pairs),
            )
        )
    return stages


def _dpo_lw(work: Work, name: str, settings: DPOLWConfig, training: Training) -> list[Stage]:
    train, held_out = work.labelled("train"), work.labelled("validation")
    most = training.steps * training.accumulate * training.batch_pairs
    reference = (
        *work.scored("base", "train", "labelled", train, 0, most),
        *work.scored("base", "validation", "labelled", held_out, 0),
    )
    fitted = work.trained(
        f"train: {name}",
        "one a preference",
        training,
        train,
        training.rank,
        runs=len(work.preferences),
        held_out=held_out,
        others=reference,
    )
    return [fitted]


def _panacea(work: Work, name: str, settings: PanaceaConfig, training: Training) -> list[Stage]:
    M, stages = len(work.objectives), []
    columns = _conditioned_columns(settings, M)
    first = work.objectives[0]
    separate = settings.loss != "policy-gradient" and settings.data == "separate"
    if separate and settings.loss == "modpo":
        stages += work.dpo(settings.beta, settings.pairs, training)
    groups, groups_spread = _groups(settings, training, M) if separate else (float(training.batch_pairs), 0.0)
    if settings.loss == "policy-gradient":
        train, held_out = (replace(work.rows[part], responses=1.0) for part in ("train", "validation"))
        train = replace(train, count=train.count * work.rows["train"].responses)
        held_out = replace(held_out, count=held_out.count * work.rows["validation"].responses)
    elif separate:
        train, held_out = (work.pair_texts(part, first, settings.pairs) for part in ("train", "validation"))
    else:
        train, held_out = work.labelled("train"), work.labelled("validation")
    most = training.steps * training.accumulate * training.batch_pairs
    others: list[Passes] = []
    for objective in work.objectives if separate else [first]:
        parts = (("train", train, most), ("validation", held_out, None))
        for part, texts, limit in parts:
            own = work.pair_texts(part, objective, settings.pairs) if separate else texts
            what = (objective, settings.pairs) if separate else "labelled"
            if settings.loss == "policy-gradient":
                others.append(reading(own, 0))
            else:
                others += work.scored("base", part, what, own, 0, limit)
            for j in work.objectives if separate and settings.loss == "modpo" else []:
                who = ("dpo", j, settings.beta, settings.pairs, training)
                others += work.scored(who, part, what, own, training.rank, limit)
    if settings.loss == "sft":
        train, held_out = replace(train, responses=1.0), replace(held_out, responses=1.0)
    validated = replace(held_out, count=held_out.count * (M if separate else 1))
    why = f"for all preferences, {groups:.2g} groups a step"
    fitted = work.trained(
        f"train: {name}",
        why,
        training,
        train,
        columns,
        held_out=validated,
        groups=groups,
        groups_spread=groups_spread,
        others=others,
    )
    return [*stages, fitted]


def _groups(settings: PanaceaConfig, training: Training, objectives: int) -> tuple[float, float]:
    """Return the groups of a forward, one for each row and objective that it trains, and their standard deviation.

    Under the linear form an objective of weight 0 is not run.
    """
    rows = training.batch_pairs
    if settings.aggregation != "linear":
        return float(rows * objectives), 0.0
    counts = (draw_preferences(settings, DRAWS, objectives, [training.seed]) > 0).sum(1)
    alike = rows if settings.per == "batch" else rows**0.5
    return float(rows * counts.mean()), float(alike * counts.std())


def _conditioned_columns(settings: Conditioning, objectives: int) -> int:
    return (settings.rank + settings.groups * objectives) * (1 + settings.hidden)


def _paretohqd(work: Work, name: str, settings: ParetoHqDConfig, training: Training) -> list[Stage]:
    anchors = [preference.over(work.objectives) for preference in work.preferences]
    models = representatives(anchors) if settings.stage2 else []
    wanted = [*anchors, *(preference for preference in models if preference not in anchors)]
    steps = settings.steps or training.steps
    one = _imitated(work, "train")
    held_out = replace(one, count=settings.held_out)
    stages = [
        work.trained(
            f"train: {name}, stage 1",
            "one a preference",
            replace(training, steps=steps),
            one,
            training.rank,
            runs=len(wanted),
            held_out=held_out,
        )
    ]
    if not settings.stage2:
        return stages
    answers = len(models) * min(settings.prompts, work.rows["train"].count)
    drawn = work.decoding(answers, work.rows["train"], training.rank)
    later = settings.stage2_steps or max(1, steps // 2)
    return [
        *stages,
        Stage(
            f"answers: {name}",
            f"{answers:.0f} answers of {len(models)} models",
            decodings=(drawn,),
            judged=answers,
        ),
        work.trained(
            f"train: {name}, stage 2",
            "one a preference",
            replace(training, steps=later),
            replace(one, response=work.answer),
            training.rank,
            runs=len(anchors),
            held_out=held_out,
        ),
    ]


def _ric(work: Work, name: str, settings: RiCConfig, training: Training) -> list[Stage]:
    tags = len(work.objectives) * (work.count.response(TAGS[settings.form], True) or 1)

    def tagged(part: str) -> Texts:
        texts = _imitated(work, part)
        return replace(texts, prompt=texts.prompt + tags, longest=texts.longest + tags)

    stages = [
        work.trained(
            f"train: {name}, offline",
            "for all preferences",
            training,
            tagged("train"),
            training.rank,
            held_out=tagged("validation"),
        )
    ]
    for number in range(1, settings.iterations + 1):
        answers = settings.prompts or min(MOST_PROMPTS, work.rows["train"].count)
        drawn = work.decoding(answers, tagged("train"), training.rank)
        stages.append(
            Stage(
                f"answers: {name}, {number}",
                f"{answers:.0f} answers to goals",
                decodings=(drawn,),
                judged=answers,
            )
        )
        stages.append(
            work.trained(
                f"train: {name}, online {number}",
                "for all preferences",
                online_training(training, settings),
                tagged("train"),
                training.rank,
            )
        )
    return stages


def _imitated(work: Work, part: str) -> Texts:
    """Return responses to imitate: each with its prompt."""
    rows = work.rows[part]
    spread = rows.spread / max(1.0, rows.responses) ** 0.5
    return replace(rows, count=rows.count * rows.responses, responses=1.0, spread=spread)


def _sipo(work: Work, name: str, settings: SIPOConfig, training: Training) -> list[Stage]:
    stages = work.dpo(settings.beta, settings.pairs, training)
    rows, M = work.rows["train"], len(work.objectives)
    pairs = work.labelled("train")
    taken = min(settings.conflicts, CONFLICTING * pairs.count)
    prompts = min(rows.count, taken)
    weights = sampled_at(work.objectives, work.preferences, settings)
    spots = prompts * len(weights)
    columns = M * training.rank
    fine = replace(
        training, steps=settings.steps or training.steps, learning_rate=settings.rate * training.learning_rate
    )
    for number in range(1, settings.rounds + 1):
        asking = replace(rows, prompt=rows.prompt + work.answer + REVIEW_TOKENS)
        asking = replace(asking, longest=rows.longest + work.answer + REVIEW_TOKENS)
        drawn = [work.decoding(spots, rows, columns, M)]
        if settings.refine:
            reviewers = M if settings.reviewer == "mod" else 1
            drawn += [
                work.decoding(spots, asking, columns, reviewers),
                work.decoding(spots, asking, columns, M),
            ]
        texts = 2 * taken / max(prompts, 1e-9) + len(weights) * (2 if settings.refine else 1)
        group = replace(rows, count=prompts, responses=texts)
        measured = (reading(group, 0), *(reading(group, training.rank) for _ in range(M)))
        answers = spots * (3 if settings.refine else 1)
        stages.append(
            Stage(
                f"answers: {name}, {number}",
                f"up to {answers:.0f} answers, reviews and rewrites for {taken:.0f} conflicting pairs",
                measured,
                tuple(drawn),
            )
        )
        found = replace(rows, count=2 * taken, responses=2.0, spread=pairs.spread)
        kept = replace(found, count=min(found.count, fine.steps * fine.accumulate * fine.batch_pairs))
        held_out = work.pair_texts("validation", work.objectives[0], settings.pairs)
        references = [
            reading(kept, 0),
            *(reading(texts, training.rank) for texts in (kept, held_out) for _ in range(M)),
        ]
        stages.append(
            work.trained(
                f"train: {name}, {number}",
                "one an objective",
                fine,
                found,
                training.rank,
                runs=M,
                held_out=held_out,
                others=references,
            )
        )
    work.said.append(
        f"{CONFLICTING:.0%} of pairs conflict, and every response of SIPO is one that improves (both decide what is trained on)"
    )
    return stages


def _morlhf(work: Work, name: str, settings: MORLHFConfig, training: Training) -> list[Stage]:
    K, prompts = settings.responses, training.accumulate * training.batch_pairs
    runs = len(work.preferences) if anchored(settings) else 1
    columns = policy_columns(work, name)[0]
    rollouts = runs * ceil(training.steps / settings.epochs)
    answers = rollouts * prompts * K
    texts = replace(work.rows["train"], count=rollouts * prompts, responses=float(K), response=work.answer)
    step = work.decoding(prompts * K, texts, columns)
    drawn = replace(step, rows=step.rows * rollouts, batch=min(step.batch, step.rows))
    forwards = rollouts * training.accumulate
    # The base model reads every answer; so does the policy that drew it, where several steps are taken on it.
    read = [passes(texts, forwards, of) for of in (0, columns)[: 1 + (settings.epochs > 1)]]
    why = (
        f"{'one a preference' if runs > 1 else 'for all preferences'}; {answers} answers are drawn on the way"
    )
    stage = work.trained(f"train: {name}", why, training, texts, columns, runs=runs, others=read)
    return [replace(stage, decodings=(drawn,), judged=answers)]


STAGES: dict[type, Callable[[Work, str, Any, Training], list[Stage]]] = {
    DPOConfig: _soup,
    MODConfig: _soup,
    MODPOConfig: _modpo,
    PanaceaConfig: _panacea,
    DPOLWConfig: _dpo_lw,
    ParetoHqDConfig: _paretohqd,
    RiCConfig: _ric,
    SIPOConfig: _sipo,
    MORLHFConfig: _morlhf,
    GDPOConfig: _morlhf,
}
"""Settings of a method -> its stages."""


def inner(preferences: list[Preference]) -> int:
    """Return how many preferences give several objectives a weight."""
    return sum(max(preference.weights) < 1 for preference in preferences)
