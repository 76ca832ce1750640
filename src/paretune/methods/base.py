"""What a method is: its settings, its training, its cost, and what the rest of the library must know of it.

A method's file ends with ``METHOD = Method(Config, train, work, Card(...))``, and one line of
:data:`paretune.methods.METHODS` names the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from paretune.core.bounds import NotNegative, Positive, check_bounds
from paretune.core.errors import ConfigError, TrainingError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.core.settings import later, parse
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Choose
from paretune.generation.endpoint import Endpoint
from paretune.models.adapter import Adapter
from paretune.planning.work import Stage, Work
from paretune.policies.gating import BetweenAnchors
from paretune.policies.policy import Policy
from paretune.policies.principles import Principles
from paretune.scoring.scorer import Scorer
from paretune.training.conditioning import Conditioning
from paretune.training.lab import Lab
from paretune.training.loop import Training
from paretune.training.losses import REVERSE_KL, Penalty
from paretune.training.preference_pairs import PairLoss
from paretune.training.token_tables import PairTable

Config = TypeVar("Config")


@dataclass(frozen=True)
class DPOConfig:
    """The settings of DPO on the pairs of one objective: of a soup, and of every method that builds on single-objective models.

    Attributes:
        beta: Strength of the KL penalty, above 0; 0.1 as in the MODPO recipes.
        pairs: Choice of the pairs of a prompt's responses.
        nll: Weight of imitating the chosen response, per mean nat of a token, beside DPO's loss (iterative RPO's alpha, Pang et
            al. 2024, arXiv 2404.19733, Eq. 1). DPO alone only moves probability from rejected to chosen, so a small model soon
            writes what is neither; 0 is DPO.
        anchor: Weight of mDPO's anchor term, ``-log sigmoid(beta log(pi / pi_ref))`` of the chosen response (Wang et al. 2024,
            arXiv 2406.11839), which keeps chosen likelier than under the reference; 1 as in mDPO, 0 is DPO.
        soft: Log-odds that a label is right where the scores of its two responses differ by one deviation among the responses to a
            prompt; 0: labels are certain, as in DPO (:mod:`paretune.training.soft_labels`). Where a response has no score
            people's comparisons decide.
    """

    beta: Positive = 0.1
    pairs: Choose = "extremes"
    nll: NotNegative = later(0.0)
    anchor: NotNegative = later(0.0)
    soft: NotNegative = later(0.0)

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def single(self) -> DPOConfig:
        """The settings of the single-objective models, which are these without what a method adds to them."""
        return DPOConfig(self.beta, self.pairs, self.nll, self.anchor, self.soft)

    @property
    def loss(self) -> PairLoss:
        """The loss of a pair."""
        return PairLoss(self.beta, nll=self.nll, anchor=self.anchor)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a method trains on.

    Attributes:
        lab: Model, run folder, and the settings of training with their seed.
        train: Prompts with responses, and the scores or labels of their objectives.
        validation: Held-out rows that choose the best weights.
        preferences: Preferences to train for; a method of one adapter for all preferences does not read them.
        scorers: One scorer per objective, for new answers and for data without scores.
        sampling: How answers are sampled while a method trains.
        endpoint: Server that draws the answers that the method trains on; None draws them here.
    """

    lab: Lab
    train: ScoredDataset
    validation: ScoredDataset
    preferences: Sequence[Preference] = ()
    scorers: Sequence[Scorer] = ()
    sampling: Sampling = field(default_factory=Sampling)
    endpoint: Endpoint | None = None

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the M objectives, in order."""
        return self.train.objectives

    def corners(self, dpo: DPOConfig, penalty: Penalty = REVERSE_KL) -> list[Adapter]:
        """Return the M single-objective models: one DPO adapter per objective, trained once for all methods.

        Under another ``penalty`` than DPO's they are those of f-DPO.
        """
        return [self.corner(objective, dpo, penalty) for objective in self.objectives]

    def corner(self, objective: str, dpo: DPOConfig, penalty: Penalty = REVERSE_KL) -> Adapter:
        """Return the single-objective model of one objective, see :meth:`corners`."""
        try:
            parts = self.train, self.validation
            terms = dpo.nll, dpo.anchor, dpo.soft
            return self.lab.dpo(objective, *parts, dpo.beta, dpo.pairs, penalty, *terms)
        except TrainingError as error:
            raise TrainingError(f"the model for {objective!r} alone: {error}") from error

    def tables(self, objective: str, dpo: DPOConfig) -> tuple[PairTable, PairTable]:
        """Return the pairs of one objective that are trained on and those held out, as the settings choose and label them."""
        return self.lab.tables(objective, self.train, self.validation, dpo.pairs, dpo.soft)

    def scorers_of(self, objectives: Sequence[str], need: str, cure: str = "") -> list[Scorer]:
        """Return the scorer of each objective, in their order.

        Args:
            objectives: Names.
            need: Method and stage that need the scorers, for the message.
            cure: What else the user can do.

        Raises:
            ConfigError: An objective without a scorer.
        """
        by_objective = {scorer.objective: scorer for scorer in self.scorers}
        for objective in objectives:
            if objective not in by_objective:
                raise ConfigError(
                    f"{need}: no scorer for the objective {objective!r}; add one under score:{cure}"
                )
        return [by_objective[objective] for objective in objectives]

    def say_unnamed(self, method: str, words: Principles) -> None:
        """Say which objectives are asked for by their names alone, as no principle is given for them."""
        for name, sentence in words.unnamed(self.objectives).items():
            self.lab.say(
                f"{method}: no principle for {name!r}, so the model is told {sentence!r}; say it better under "
                f"methods.{method}.principles.{name}"
            )


Family = Literal["pairs", "scores", "sampled", "untrained"]
"""What a method learns from: ``pairs`` of the data, ``scores`` of the data's responses, responses that are ``sampled`` and scored
while it trains, or nothing."""


@dataclass(frozen=True)
class Card:
    """What a user must know to choose a method.

    Attributes:
        title: Its usual name.
        paper: Where it is defined.
        needs: The data that it trains on.
        runs: Number of training runs for M objectives and N preferences.
        enters: Where the preference enters the policy.
        family: What it learns from.
    """

    title: str
    paper: str
    needs: str
    runs: str
    enters: str
    family: Family


@dataclass(frozen=True)
class Traits:
    """What sweeps, endpoints, plans and fronts must know of a method under given settings.

    Attributes:
        adapters: Number of its adapters: one per ``objective``, one per ``preference`` (anchors), one for ``all``, or ``none``:
            nothing is trained or heads alone.
        conditioning: How its one adapter follows the preference in its gates; None where it is a plain LoRA.
        prompted: The preference stands in the prompt.
        separable: The model for one preference is trained without those for others, so a sweep makes each of them a task.
        mixed: At an inner preference every row is run once per objective, as decoding mixes their distributions.
        reference: And once by the reference model, whose distribution enters the mixture.
        between: What answers between its anchors: the ``nearest``, or a ``soup`` of those around.
        guided: At every preference each row is run once per objective with weight, with a prompt of its own, and once without.
        asks: Text that is written into prompts, for estimates of their length.
        candidates: Answers sampled for each answer that is returned.
        corners: Settings of the single-objective models that the policy is at one-hot preferences; None where it is not.
        corner: Those of the one that it is with all weight on one certain objective, where it is no other; else None.
        beta: Strength of its KL penalty on the scale of DPO's; None on another scale.
        refusal: Reason why no endpoint can draw the answers that it trains on; empty where one can.
    """

    adapters: Literal["objective", "preference", "all", "none"] = "objective"
    conditioning: Conditioning | None = None
    prompted: bool = False
    separable: bool = False
    mixed: bool = False
    reference: bool = False
    between: BetweenAnchors = "nearest"
    guided: bool = False
    asks: str = ""
    candidates: int = 1
    corners: DPOConfig | None = None
    corner: DPOConfig | None = None
    beta: float | None = None
    refusal: str = ""

    @property
    def anchored(self) -> bool:
        """Whether the policy has one adapter per preference, and is measured at these preferences and not between them."""
        return self.adapters == "preference" and self.between == "nearest"

    def copies(self, objectives: int) -> int:
        """Return how often a row is run where ``objectives`` of them have weight."""
        if self.guided:
            return objectives + 1
        return objectives + self.reference if self.mixed and objectives > 1 else 1

    @property
    def one_reading(self) -> bool:
        """Whether the base model reads a prompt alike at every preference, so that the answers at all of them share the reading."""
        return self.adapters == "none" and not self.prompted

    @property
    def extrapolates(self) -> bool:
        """Whether the policy answers off the simplex, see :attr:`paretune.policies.policy.Policy.extrapolates`."""
        return self.adapters != "preference" and not self.prompted

    def columns(self, rank: int, objectives: int, preferences: int) -> tuple[int, ...]:
        """Return the columns of each adapter of the policy.

        Args:
            rank: Rank of a LoRA, ``train.rank``.
            objectives: M.
            preferences: N.
        """
        count = {"objective": objectives, "preference": preferences, "all": 1, "none": 0}[self.adapters]
        return (rank if self.conditioning is None else self.conditioning.columns(objectives),) * count


def unchecked(config: Any, objectives: Sequence[str], preferences: Sequence[Preference]) -> None:
    """Find nothing wrong: a method whose settings name no objective."""


def plain(config: Any) -> Traits:
    """Return the traits of a method with one adapter per objective whose updates are added."""
    return Traits()


@dataclass(frozen=True)
class Method(Generic[Config]):
    """A method.

    Attributes:
        config: Class of its settings, a frozen dataclass; its fields are the keys under ``methods.NAME``.
        train: Returns the policy that was trained on the inputs.
        work: Returns the stages that train it, for ``paretune plan``, from the planned run, the name of its entry, its settings
            and how its adapters are trained.
        card: What a user must know to choose it.
        traits: What the rest of the library must know of it under given settings.
        fixed: Settings that its name decides, key -> value.
        choices: Settings whose values its name bounds, key -> values; the first is the default.
        staged: It samples answers to train on, between its stages or at every step, which an endpoint can draw.
        grows: Another objective in the run is one more adapter, and those of the others stay as they are.
        lends_corners: The single-objective models of a run, between which the mixture is drawn, are those of its first such entry.
        check: Raises a ConfigError where settings do not fit the objectives and preferences of a run, before anything is read.
    """

    config: type[Config]
    train: Callable[[Inputs, Config], Policy]
    work: Callable[[Work, str, Config, Training], list[Stage]]
    card: Card
    traits: Callable[[Config], Traits] = plain
    fixed: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    staged: bool = False
    grows: bool = False
    lends_corners: bool = False
    check: Callable[[Config, Sequence[str], Sequence[Preference]], None] = unchecked

    def settings(self, values: Mapping[str, Any], where: str) -> Config:
        """Return the typed settings from the values under ``where`` of a config.

        Raises:
            ConfigError: An unknown key, a wrong value, or another value of a setting that the method's name decides.
        """
        allowed = {key: (value,) for key, value in self.fixed.items()} | dict(self.choices)
        for key, known in allowed.items():
            if values.get(key, known[0]) not in known:
                raise ConfigError(
                    f"{where}.{key}: got {values[key]!r}, but {self.card.title} is the method of {key}: "
                    f"{' or '.join(map(str, known))}; leave it out, or use the method of {key}: {values[key]} (see `paretune "
                    "methods`)"
                )
        return parse(self.config, {**{key: known[0] for key, known in allowed.items()}, **values}, where)
