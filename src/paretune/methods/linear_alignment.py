"""Linear alignment: the difference that a principle in the prompt makes to the logits, gone beyond; nothing is trained.

Gao et al. 2024 (arXiv 2401.11458). For a principle in words, with l_with and l_without the logits of one frozen model with the
principle in its prompt and without it:

    1. N = nucleus of softmax(l_with / T)                                                     (top-p 0.8 at T = 0.5, as released)
    2. draw the next token from (1 + k) l_with - k l_without inside N                         (k = 3, as released)

For several principles with weights w (ours; one-hot it is the above):

    1. N = nucleus of softmax(sum_i w_i l_i / T)
    2. l_without + (1 + k) sum_i w_i (l_i - l_without) inside N

Each copy of a row has one principle in its prompt, and all copies share one forward per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Le

from paretune.core.bounds import Positive
from paretune.core.preference import Preference
from paretune.generation.mixing import Nucleus
from paretune.methods.base import Card, Inputs, Method, Traits
from paretune.planning.work import Stage, Work
from paretune.policies.policy import Policy
from paretune.policies.principles import Guidance, Principles
from paretune.training.loop import Training


@dataclass(frozen=True)
class LinearAlignmentConfig(Principles):
    """The settings of linear alignment, beside the words.

    Attributes:
        strength: k, by which the answers go beyond what the words alone do.
        nucleus: Probability of the set of likeliest tokens that are chosen among; 1 is all.
        nucleus_temperature: Temperature of the distribution whose set it is.
    """

    strength: Positive = 3.0
    nucleus: Annotated[float, Gt(0), Le(1)] = 0.8
    nucleus_temperature: Positive = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.guidance  # refuses what is out of bounds

    @property
    def guidance(self) -> Guidance:
        """The strength and the nucleus."""
        return Guidance(self.strength, Nucleus(self.nucleus, self.nucleus_temperature))


def train(inputs: Inputs, config: LinearAlignmentConfig) -> Policy:
    """Return the base model guided by principles; nothing is trained."""
    words = Principles(config.principles, config.provider, config.place)
    inputs.say_unnamed("linear-alignment", words)
    return Policy.principled("linear-alignment", inputs.lab.lm, inputs.objectives, words, config.guidance)


def work(run: Work, name: str, config: LinearAlignmentConfig, training: Training) -> list[Stage]:
    """Return no stage: nothing is trained."""
    return []


def check(
    config: LinearAlignmentConfig, objectives: Sequence[str], preferences: Sequence[Preference]
) -> None:
    """Raise a ConfigError where a principle is of no objective of the run."""
    config.check(objectives)


METHOD = Method(
    LinearAlignmentConfig,
    train,
    work,
    Card(
        title="Linear alignment",
        paper="arXiv 2401.11458",
        needs="prompts, and a principle in words for each objective",
        runs="none, for any N",
        enters="next-token distribution: those with one principle in the prompt each are combined with that without",
        family="untrained",
    ),
    traits=lambda config: Traits("none", prompted=True, guided=True, asks=config.longest()),
    check=check,
)
