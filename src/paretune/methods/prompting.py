"""Plain prompting: the preference is asked for in words, and nothing is trained. The baseline of every method with weights.

    1. for each objective: a principle in words, such as "Be brief."
    2. at preference w: answer from the base model, asked to follow the principles, each with its share of 100

Where the provider of the model has wishes of its own, the prompt has the two fields of MetaAlign's meta-prompt (Zhang et al. 2024,
arXiv 2410.14184): what the provider asks for at every preference, and what the user asks for. MetaAlign trains a model on such
prompts; here any model reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paretune.core.preference import Preference
from paretune.methods.base import Card, Inputs, Method, Traits
from paretune.planning.work import Stage, Work
from paretune.policies.policy import Policy
from paretune.policies.principles import Principles
from paretune.training.loop import Training


@dataclass(frozen=True)
class PromptingConfig(Principles):
    """The settings of plain prompting: the words."""


def train(inputs: Inputs, config: PromptingConfig) -> Policy:
    """Return the base model asked in words; nothing is trained."""
    words = Principles(config.principles, config.provider, config.place)
    inputs.say_unnamed("prompting", words)
    return Policy.principled("prompting", inputs.lab.lm, inputs.objectives, words)


def work(run: Work, name: str, config: PromptingConfig, training: Training) -> list[Stage]:
    """Return no stage: nothing is trained."""
    return []


def check(config: PromptingConfig, objectives: Sequence[str], preferences: Sequence[Preference]) -> None:
    """Raise a ConfigError where a principle is of no objective of the run."""
    config.check(objectives)


METHOD = Method(
    PromptingConfig,
    train,
    work,
    Card(
        title="Plain prompting",
        paper="meta-prompt of MetaAlign, arXiv 2410.14184",
        needs="prompts, and a principle in words for each objective",
        runs="none, for any N",
        enters="the prompt: principles in words, with their shares",
        family="untrained",
    ),
    traits=lambda config: Traits("none", prompted=True, asks=config.longest()),
    check=check,
)
