"""The lab: turns data into adapters, computes everything frozen once, and resumes every stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paretune.core.files import fingerprint, write_json
from paretune.core.names import LONGEST_MADE, path_component
from paretune.core.progress import announce
from paretune.core.settings import as_values
from paretune.core.swap import discard
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Choose, Pair
from paretune.models.adapter import Adapter
from paretune.models.distributed import ProcessGroup, start
from paretune.models.language_model import LanguageModel
from paretune.models.packing import TokenGroup
from paretune.scoring.cache import ScoreCache
from paretune.training.checkpoint import CANNOT_GO_ON, of_other_runs, remove_checkpoint
from paretune.training.conditioned import ObjectiveData, fit_conditioned
from paretune.training.conditioning import Conditioning
from paretune.training.demonstrations import Demonstration, fit_demonstrations, tokenise_demonstrations
from paretune.training.kept_logps import kept_logps
from paretune.training.loop import Record, Training, TrainingRun
from paretune.training.losses import REVERSE_KL, Link, Penalty
from paretune.training.preference_pairs import PairLoss, fit_pairs
from paretune.training.rl.goal import Reward
from paretune.training.rl.rollouts import rollout_folder
from paretune.training.rl.task import fit_on_policy
from paretune.training.short_pairs import chosen_pairs, what_gave_way
from paretune.training.soft_labels import deviation_within, log_odds, soften
from paretune.training.stages import CAUSES, StageRecord, Stages
from paretune.training.token_tables import (
    Limit,
    PairTable,
    ResponseTable,
    TooLong,
    drawn_pairs,
    named,
    tokenise,
    tokenise_responses,
)
from paretune.training.trackers import tracked


@dataclass
class Lab:
    """A language model, a run folder and the settings of training.

    Attributes:
        lm: The frozen base model, which is the reference of every method.
        folder: Run folder, with finished stages and caches.
        training: Settings of training.
        trackers: Names of accelerate's trackers (tensorboard, wandb, trackio, mlflow); none by default.
        team: The processes of the run; each has such a lab on one folder that all of them see.
        shared: Whether other runs work in the folder at the same time, as the tasks of a sweep do. A stage that one of them makes
            is then waited for and not made twice, and its folder carries its key, so that the order of the runs does not matter.
        left_out: Sentences on what of the data is left out, for the report.
        scoring_forwards: Responses scored by frozen models so far (cached ones do not count).
        too_long: What happens to long texts, see :class:`paretune.training.token_tables.Limit`.
        checkpointing: Whether ``train.gradient_checkpointing=auto`` means that activations are computed again.
        used: Policy -> the stages that its method made or found finished, as far as this lab trained it.
    """

    lm: LanguageModel
    folder: Path
    training: Training = field(default_factory=Training)
    trackers: tuple[str, ...] = ()
    shared: bool = False
    left_out: list[str] = field(default_factory=list)
    scoring_forwards: int = 0
    too_long: TooLong = "drop"
    checkpointing: bool = False
    used: dict[str, list[StageRecord]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder).absolute()
        self.accelerator = start(self.lm.device)
        self.team = ProcessGroup.of(self.accelerator, self.lm.model)
        self._stages = Stages(self.folder, self.team, self.shared, self.say)

    @property
    def stages(self) -> list[StageRecord]:
        """What has been run or found finished so far, in order."""
        return self._stages.records

    @property
    def score_cache(self) -> ScoreCache:
        """Scores of the run's texts on disk, by their content."""
        return ScoreCache(self.folder / "cache" / "scores.sqlite")

    @contextmanager
    def trained_by(self, training: Training) -> Iterator[None]:
        """Train with other settings inside the context."""
        outer, self.training = self.training, training
        try:
            yield
        finally:
            self.training = outer

    def pair_table(self, chosen: Sequence[Pair], objective: str = "") -> PairTable:
        """Tokenise pairs and fill in their reference log-probabilities (cached), or raise a TrainingError if all are too long."""
        most, rule = self.training.max_tokens, self.too_long
        table, dropped = tokenise(self.lm, chosen, most, rule, objective, self.leave_out)
        if dropped:
            self._long(f"{dropped} of {len(chosen)} pairs", "and were dropped", objective)
        self._replaced(chosen, objective)
        return replace(table, reference=self.logps(table))

    def train_table(self, chosen: Sequence[Pair], objective: str = "") -> PairTable:
        """Return :meth:`pair_table` of the :func:`drawn_pairs` of a run; to score the rest would take long, for nothing."""
        drawn, looked = drawn_pairs(self.limit, chosen, self.training)
        if drawn and looked > len(drawn):
            self._long(
                f"{looked - len(drawn)} of {looked} drawn pairs", "and others took their place", objective
            )
        table = self.pair_table(drawn or chosen, objective)
        self._replaced(chosen, objective)
        return table

    def pairs(self, dataset: ScoredDataset, objective: str, choose: Choose) -> Sequence[Pair]:
        """Return the pairs of an objective, see :func:`paretune.training.short_pairs.chosen_pairs`."""
        return chosen_pairs(self.limit, dataset, objective, choose)

    @property
    def limit(self) -> Limit:
        """The most tokens of a text, and what happens to longer ones."""
        return Limit(self.lm, self.training.max_tokens, self.too_long)

    def _replaced(self, chosen: Sequence[Pair], objective: str) -> None:
        if gave_way := what_gave_way(chosen):
            self._long(*gave_way, objective)

    def _long(self, what: str, end: str, objective: str = "") -> None:
        of = f" of {named(objective)}" if objective else ""
        self.leave_out(f"{what}{of} are longer than {self.limit} {end}")

    def response_table(self, dataset: ScoredDataset) -> ResponseTable:
        """Tokenise all scored responses and fill in their reference log-probabilities (cached).

        Raises:
            TrainingError: A score is missing, or no prompt has two responses that are short enough.
        """
        most = self.training.max_tokens
        table, dropped = tokenise_responses(self.lm, dataset, most, self.too_long, self.leave_out)
        if dropped:
            self._long(f"{dropped} responses with their prompt", "and were left out")
        groups: list[TokenGroup] = [(p, [r]) for p, r in zip(table.prompts, table.responses, strict=True)]
        return replace(table, reference=torch.cat(self.response_logps(groups, None)))

    def logps(self, table: PairTable, adapter: Adapter | None = None) -> Tensor:
        """Return the log-probabilities fp32 ``[N, 2]`` of chosen and rejected under ``adapter`` (None: the base model).

        Computed once for each distinct response and kept on disk under the fingerprint of text, model and adapter, so
        that every objective, preference, method and restart shares them.
        """
        groups = table.distinct
        return table.in_pairs(groups, self.response_logps(groups, adapter))

    def tables(
        self,
        objective: str,
        train: ScoredDataset,
        validation: ScoredDataset,
        choose: Choose,
        soft: float = 0.0,
    ) -> tuple[PairTable, PairTable]:
        """Return the pairs of one objective that are trained on, and those held out.

        With ``soft`` their labels are probabilities (:mod:`paretune.training.soft_labels`), in deviations of the training data.
        """
        both = (
            self.train_table(self.pairs(train, objective, choose), objective),
            self.pair_table(self.pairs(validation, objective, choose), objective),
        )
        if not soft:
            return both
        place, deviation = train.objectives.index(objective), deviation_within(train, objective)
        first, held_out = (soften(table, log_odds(table, place, deviation, soft)) for table in both)
        return first, held_out

    def implicit_gap(self, table: PairTable, adapter: Adapter, beta: float) -> Tensor:
        """Return r(chosen) - r(rejected) ``[N]`` under the adapter's implicit reward beta (log pi - log pi_ref), both cached."""
        ratios = self.logps(table, adapter) - table.reference
        return beta * (ratios[:, 0] - ratios[:, 1])

    def response_logps(self, groups: Sequence[TokenGroup], adapter: Adapter | None = None) -> list[Tensor]:
        """Return for each group the log-probabilities of its responses (fp32, in nats, summed over tokens), kept on disk.

        ``adapter`` None is the base model. A response that stands in several groups of one prompt is read once.
        """
        who = fingerprint(
            self.lm.fingerprint, str(self.lm.model.dtype), adapter.fingerprint if adapter else "base"
        )
        keys = [
            [fingerprint(who, prompt, response) for response in responses] for prompt, responses in groups
        ]
        cache = ScoreCache(self.folder / "cache" / "logps.sqlite")
        with self._stages.alone(f"logps-{who}"):
            logps, computed = kept_logps(self.lm, cache, groups, keys, adapter, self.team)
        self.scoring_forwards += computed
        return logps

    def fit(
        self,
        name: str,
        table: PairTable,
        validation: PairTable | None,
        beta: float,
        link: Link = "sigmoid",
        info: dict[str, Any] | None = None,
        *,
        start: Adapter | None = None,
    ) -> Adapter:
        """Train an adapter on a stamped table, or return the finished one of an earlier run with the same inputs.

        Args:
            name: Name of the stage and of its folder under ``adapters/``.
            table: Stamped pairs.
            validation: Pairs that choose the best parameters, stamped alike; None keeps the last.
            beta: Strength of the KL penalty, > 0.
            link: ``sigmoid`` or ``hinge``.
            info: Facts stored with the adapter.
            start: Adapter to continue from; None starts at the base model.
        """
        return self.fit_pairs(name, table, validation, PairLoss(beta, link), info, start)

    def fit_pairs(
        self,
        name: str,
        table: PairTable,
        validation: PairTable | None,
        loss: PairLoss,
        info: dict[str, Any] | None,
        start: Adapter | None = None,
    ) -> Adapter:
        """Do what :meth:`fit` does, with the whole loss of a pair."""
        under = loss.penalty.facts()
        facts = dict(info or {}) | {"beta": loss.beta, "link": loss.link, "pairs": len(table)} | under
        held_out = (validation.fingerprint, validation.content) if validation else ("", "")
        begun = start.fingerprint if start else ""
        inputs: list[Any] = [table.fingerprint, held_out[0], loss.beta, loss.link]
        inputs += [begun, loss.nll] if start is not None or loss.nll else []
        inputs += [part for part in (under, loss.terms()) if part]
        read = [name, table.content, held_out[1], loss.facts(), begun]

        def train(run: TrainingRun) -> tuple[Adapter, list[Record]]:
            return fit_pairs(run, table, validation, loss)

        return self.fit_stage(name, inputs, facts, train, start, read)

    def dpo(
        self,
        objective: str,
        train: ScoredDataset,
        validation: ScoredDataset,
        beta: float,
        choose: Choose = "extremes",
        penalty: Penalty = REVERSE_KL,
        nll: float = 0.0,
        anchor: float = 0.0,
        soft: float = 0.0,
    ) -> Adapter:
        """Return the DPO adapter of one objective: the member of soups and of MOD, and the start of SIPO, trained once.

        Args:
            objective: Objective whose pairs are trained on.
            train, validation: Data with at least two responses per prompt.
            beta: Strength of the KL penalty, > 0.
            choose: Rule that selects pairs among a prompt's responses.
            penalty: Divergence from the base model that ``beta`` weighs; another one than DPO's is f-DPO's.
            nll: Weight of imitating chosen, per mean nat of a token.
            anchor: Weight of mDPO's anchor term.
            soft: Log-odds of a label whose scores differ by one deviation; 0: labels are certain.
        """
        table, held_out = self.tables(objective, train, validation, choose, soft)
        info = {"method": "dpo", "objective": objective}
        name = f"dpo-{objective}" + ("" if penalty == REVERSE_KL else f"-{penalty.divergence}")
        return self.fit_pairs(name, table, held_out, PairLoss(beta, "sigmoid", nll, penalty, anchor), info)

    def fit_conditioned(
        self,
        name: str,
        data: ObjectiveData,
        validation: ObjectiveData | None,
        beta: float,
        conditioning: Conditioning,
        info: dict[str, Any] | None = None,
    ) -> Adapter:
        """Train one adapter for all preferences, or return the finished one of an earlier run with the same inputs.

        The arguments are those of :meth:`fit`, with one table per objective (or one labelled for all) and the settings of
        the conditioning.
        """
        facts = dict(info or {}) | {
            "beta": beta,
            "objectives": list(data.objectives),
            "conditioning": as_values(conditioning),
            "pairs": sum(map(len, data.tables)),
        }
        parts = [part for part in (data, validation) if part]
        tables = [[table.fingerprint for table in part.tables] for part in parts]
        margins = [fingerprint(m.numpy().tobytes()) for part in parts for m in part.margins]
        inputs = [tables, margins, list(data.objectives), data.labelled, beta, as_values(conditioning)]

        def train(run: TrainingRun) -> tuple[Adapter, list[Record]]:
            return fit_conditioned(run, data, validation, beta, conditioning)

        return self.fit_stage(name, inputs, facts, train)

    def fit_demonstrations(
        self,
        name: str,
        items: Sequence[Demonstration],
        held_out: Sequence[Demonstration] = (),
        start: Adapter | None = None,
        info: dict[str, Any] | None = None,
        tags: Sequence[str] = (),
    ) -> Adapter:
        """Train an adapter to imitate ``items``, or return the finished one of an earlier run with the same inputs.

        Args:
            name: Name of the stage and of its folder under ``adapters/``.
            items: Responses to imitate.
            held_out: Responses that choose the best parameters; without them the last are kept.
            start: Adapter to continue from; None starts at the base model.
            info: Facts stored with the adapter.
            tags: Texts in prompts that are one learned token each, see :class:`paretune.models.language_model.LanguageModel`.

        Raises:
            TrainingError: No response is short enough.
            ModelError: ``start`` has no embeddings of the tags.
        """
        lm = replace(self.lm, tags=tuple(tags))
        most = self.training.max_tokens
        table, dropped = tokenise_demonstrations(lm, items, most, self.too_long, self.leave_out)
        if dropped:
            self._long(f"{name}: {dropped} of {len(items)} responses with their prompt", "and were left out")
        kept = tokenise_demonstrations(lm, held_out, most, self.too_long)[0] if held_out else None
        facts = dict(info or {}) | {"responses": len(table)}
        inputs = [
            "demonstrations",
            [[part.prompts, part.responses] if part else [] for part in (table, kept)],
            start.fingerprint if start else "",
            *tags,  # their texts decide where their embeddings begin
        ]

        def train(run: TrainingRun) -> tuple[Adapter, list[Record]]:
            return fit_demonstrations(replace(run, lm=lm), table, kept)

        return self.fit_stage(name, inputs, facts, train, start)

    def fit_on_policy(self, name: str, goal: Reward, info: dict[str, Any] | None = None) -> Adapter:
        """Train an adapter on its own responses, or return the finished one of an earlier run with the same inputs.

        Args:
            name: Name of the stage and of its folder under ``adapters/``.
            goal: Prompts, rewards, and the preference or how preferences are drawn.
            info: Facts stored with the adapter, beside those of the goal and the seed.

        Raises:
            BatchError: A reward function failed; what was trained so far is saved.
            TrainingError: No prompt leaves room for a response.
        """
        limit = self.limit
        goal = goal.cut(self.lm, limit, self.leave_out)
        facts = goal.facts() | dict(info or {}) | {"seed": self.training.seed}
        inputs = ["on-policy", *goal.identity()]
        within = goal.short_enough(self.lm, limit)
        if dropped := len(goal.prompts) - len(within.prompts):
            room = f"room for {goal.sampling.max_new_tokens} new tokens within {limit}"
            self.leave_out(f"{dropped} of {len(goal.prompts)} prompts leave no {room} and were left out")

        def train(run: TrainingRun) -> tuple[Adapter, list[Record]]:
            return fit_on_policy(run, within, self.score_cache)

        return self.fit_stage(name, inputs, facts, train, content=goal.content())

    def fit_stage(
        self,
        name: str,
        inputs: list[Any],
        facts: dict[str, Any],
        train: Callable[[TrainingRun], tuple[Adapter, list[Record]]],
        start: Adapter | None = None,
        content: list[Any] | None = None,
    ) -> Adapter:
        """Return the adapter of stage ``name``, trained now unless it is finished under the same inputs and settings.

        ``content`` is what training reads of the inputs, where that is less than all: an adapter that was trained on the same is
        reused, so that another objective in the run does not train the others again.

        Its ``info["stages"]`` names all stages of training that led to it: those before in ``facts``, or else of ``start``.
        """
        path_component(name, "the adapter", LONGEST_MADE)
        settings = self.training.settled(self.checkpointing)
        model = settings.decisive, self.lm.fingerprint, str(self.lm.model.dtype)
        key = fingerprint(inputs, *model)
        stage = self.own_name(f"adapters/{name}", key)
        before = facts.get("stages", start.info.get("stages", []) if start else [])
        facts = facts | {"stage": stage, "stages": [*before, stage]}
        if self.lm.quantization != "none":
            facts["quantization"] = self.lm.quantization
        checkpoint = self.folder / "checkpoints" / f"{name}-{key}.safetensors"
        for other in [] if self.shared else of_other_runs(checkpoint, name):
            self.say(f"{name}: {other} {CANNOT_GO_ON}")
        run = TrainingRun(
            self.lm, settings, self.accelerator, checkpoint, name, key, start, facts, notify=self.say
        )

        def make(folder: Path) -> None:
            with tracked(self.trackers, self.lm.device, self.folder / "logs" / name, facts) as log:
                adapter, history = train(replace(run, log=log))
            adapter.save(folder / "adapter")
            write_json(folder / "history.json", history)

        read = "" if content is None else fingerprint(content, *model)
        parts = zip(CAUSES, [inputs, *model], strict=True)
        causes = {cause: fingerprint(part) for cause, part in parts}
        folder = self._stages.made(stage, key, make, True, read, causes)
        remove_checkpoint(checkpoint)
        discard(rollout_folder(checkpoint))
        return Adapter.load(folder / "adapter", self.lm.fingerprint)

    def own_name(self, name: str, key: str) -> str:
        """See :meth:`paretune.training.stages.Stages.own_name`."""
        return self._stages.own_name(name, key)

    def stage(
        self, name: str, key: str, make: Callable[[Path], None], together: bool = False, content: str = ""
    ) -> Path:
        """Return the folder of a stage, see :meth:`paretune.training.stages.Stages.made`."""
        return self._stages.made(name, key, make, together, content)

    def leave_out(self, message: str) -> None:
        """Say once what of the data is left out or cut, and keep it for the report."""
        if message not in self.left_out:
            self.left_out.append(message)
            self.say(message)

    def say(self, message: str) -> None:
        """Print a message at the terminal, once for all processes; nothing where silence was asked for."""
        if self.team.first:
            announce(message)
