"""Value-augmented sampling (VAS): value heads trained on the frozen model's own samples re-score its next tokens.

Han et al. 2024 (arXiv 2405.06639):

    1. sample texts y from the frozen pi_ref, and score them: r_i(x, y) for each objective i
    2. V_i(s) <- (1 - lambda) V_i(s') + lambda G(s'), with G = r_i at the end                       (TD(lambda), half squared error)
    3. draw the next token from pi_ref(v | s) exp(sum_i beta w_i [V_i(s + v) - mean of V_i over the k likeliest tokens])
                                                                                         (for these k; the others keep pi_ref)

The policy is never trained, so there is no loop between it and its values, and beta is chosen when answers are sampled. The M
heads stand on one small trunk that reads the model's own states (:mod:`paretune.models.values`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from paretune.core.bounds import Count, NotNegative, check_bounds
from paretune.data.rows import Prompt
from paretune.generation.rescoring import MOST_TOKENS, Augmentation
from paretune.methods.base import Card, Inputs, Method, Traits
from paretune.planning.lengths import Texts
from paretune.planning.work import Stage, Work, passes
from paretune.policies.policy import Policy
from paretune.policies.valued import ValuedPolicy
from paretune.training.loop import Training
from paretune.training.value_samples import Scale, sampled, with_room
from paretune.training.values import ValueSettings, fit_values

HELD_OUT = 4
"""Training prompts for each held-out one, whose answers choose the best parameters."""


@dataclass(frozen=True)
class VASConfig(ValueSettings):
    """The settings of VAS, beside those of :class:`paretune.training.values.ValueSettings`.

    ``train.batch_pairs`` counts prompts with their responses; rank and targets of ``train`` are not read.

    Attributes:
        beta: Strength in nats for each deviation of a reward. Entries that differ in it alone share their value heads.
        candidates: Number of likeliest tokens that are re-scored; 20 as in the released code.
        responses: Answers that the base model samples to each prompt.
        prompts: Most training prompts that are answered; a quarter as many of the validation part choose the best parameters.
    """

    beta: NotNegative = 1.0
    candidates: Annotated[int, Ge(1), Le(MOST_TOKENS)] = 20
    responses: Annotated[int, Ge(2), Le(1024)] = 4
    prompts: Count = 500

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def learning(self) -> ValueSettings:
        """How the heads learn."""
        return ValueSettings(self.lam, self.width, self.rate_factor)

    @property
    def held_out(self) -> int:
        """The most held-out prompts."""
        return max(1, self.prompts // HELD_OUT)


def train(inputs: Inputs, config: VASConfig) -> Policy:
    """Return the base model with value heads trained on its own samples.

    The training data are prompts alone.

    Raises:
        ConfigError: An objective without a scorer.
        ScoreError: A sampled answer cannot be scored, or all of them score alike.
        TrainingError: No prompt leaves room for an answer, or a loss is not finite.
    """
    lab, objectives, new = inputs.lab, inputs.objectives, inputs.sampling.max_new_tokens
    scorers = inputs.scorers_of(objectives, "vas")
    seed = lab.training.seed * 1_000_003
    chosen = drawn([row.prompt for row in inputs.train.rows], config.prompts, lab.training.seed)
    held_out = drawn([row.prompt for row in inputs.validation.rows], config.held_out, lab.training.seed)
    prompts, others = with_room(lab, chosen, new), with_room(lab, held_out, new)
    answers = sampled(lab, "vas", prompts, config.responses, scorers, inputs.sampling, seed)
    first = seed + len(prompts) * config.responses
    checks = sampled(lab, "vas-validation", others, config.responses, scorers, inputs.sampling, first)
    scale = Scale.of(answers.scores, scorers)
    table, validation, keys = answers.table(scale), checks.table(scale), [answers.key, checks.key]
    values = fit_values(lab, "vas", objectives, table, validation, config.learning, keys)
    how = Augmentation(config.beta, config.candidates)
    return ValuedPolicy.of("vas", lab.lm, objectives, values, how)


def drawn(prompts: Sequence[Prompt], most: int, seed: int) -> list[Prompt]:
    """Return at most so many different prompts, drawn by ``seed``, in their order."""
    distinct = list(dict.fromkeys(prompts))
    order = np.random.default_rng(seed).permutation(len(distinct))[:most]
    return [distinct[number] for number in np.sort(order)]


def work(run: Work, name: str, config: VASConfig, training: Training) -> list[Stage]:
    """Return the stages that sample answers and train heads on them; none where another entry's are the same."""
    stages = []
    texts = {}
    for part, most in (("train", config.prompts), ("validation", config.held_out)):
        rows = run.rows[part]
        count = min(most, len({row.key for row in run.splits[part].rows}))
        texts[part] = replace(rows, count=count, responses=float(config.responses), response=run.answer)
    if run.once("vas answers", config.prompts, config.responses, training.seed):
        answers = [part.count * part.responses for part in texts.values()]
        decodings = tuple(
            run.decoding(rows, part, 0, shared=config.responses)
            for rows, part in zip(answers, texts.values(), strict=True)
        )
        what = f"{sum(answers):.0f} answers of the base model"
        stages.append(Stage(f"answers: {name}", what, decodings=decodings, judged=sum(answers)))
    if run.once("vas values", config.prompts, config.responses, config.learning, training):
        stages.append(fitted(name, config, training, texts["train"], texts["validation"]))
    return stages


def fitted(name: str, config: VASConfig, training: Training, texts: Texts, held_out: Texts) -> Stage:
    """Return the stage that trains the heads: the base model reads every batch, without a backward pass."""
    forwards = training.steps * training.accumulate
    every = training.validate_every or max(1, training.steps // 4)
    times = ceil(training.steps / every) + 1  # and once for the share of the variance that is explained
    batches = ceil(held_out.count / training.batch_pairs)
    read = [
        passes(replace(texts, count=forwards * training.batch_pairs), forwards, 0),
        passes(replace(held_out, count=held_out.count * times), batches * times, 0),
    ]
    what = f"{training.steps} steps of the heads; the base model reads the answers and is not trained"
    return Stage(f"values: {name}", what, tuple(replace(one, targets=0.0) for one in read))


METHOD = Method(
    VASConfig,
    train,
    work,
    Card(
        title="VAS",
        paper="arXiv 2405.06639",
        needs="prompts, and a scorer for each objective",
        runs="1 of value heads, for M objectives and any N",
        enters="next-token distribution: the likeliest tokens are re-scored by the weighted values of the objectives",
        family="sampled",
    ),
    traits=lambda config: Traits("none"),
)
