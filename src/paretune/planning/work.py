"""The work of a run before it is done: how long its texts are, what is trained and scored already, and what each stage reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import ceil
from typing import Any

import numpy as np

from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Choose, labelled_pairs, pairs
from paretune.generation.mixing import Divergence
from paretune.planning.cost import Decoding, Passes
from paretune.planning.lengths import Counter, Texts, any_pair, of_pairs
from paretune.policies.prompts import Prompting
from paretune.training.conditioning import Conditioning
from paretune.training.gradients import backward_passes
from paretune.training.loop import Training
from paretune.training.rl.goal import RLSettings
from paretune.training.token_tables import TooLong

SCORING_TOKENS = 1024
"""Tokens of one forward that scores responses, see :func:`paretune.generation.generate.response_logps`."""


@dataclass(frozen=True)
class Step:
    """A forward with gradients, the largest of a stage.

    Attributes:
        tokens: Number of tokens.
        targets: Number of scored positions among them.
        seen: Number of positions that its tokens attend to, summed over tokens.
        responses: Number of responses that share a prompt.
    """

    tokens: float = 0.0
    targets: float = 0.0
    seen: float = 0.0
    responses: float = 2.0

    @property
    def keys(self) -> float:
        """Number of keys of all texts together: a prompt's are those of each of its responses too."""
        return self.tokens + self.responses * max(0.0, self.tokens - self.targets)

    def scaled(self, factor: float) -> Step:
        """Return a step of so many times as many texts."""
        return Step(self.tokens * factor, self.targets * factor, self.seen * factor, self.responses)


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: Name, such as ``train: dpo``.
        what: What it does, for people.
        passes, decodings: Work of the model.
        judged: Answers that every scorer rates.
        embedded: Texts that the encoder of heads reads before they are fitted.
        embedded_tokens: Mean tokens of such a text.
        columns: Columns of each adapter that the stage saves.
        step: Its largest forward with gradients.
    """

    name: str
    what: str
    passes: tuple[Passes, ...] = ()
    decodings: tuple[Decoding, ...] = ()
    judged: float = 0.0
    columns: tuple[float, ...] = ()
    step: Step = Step()
    embedded: float = 0.0
    embedded_tokens: float = 0.0

    @property
    def trained(self) -> float:
        """Tokens that go forward and backward."""
        return sum(work.tokens for work in self.passes if work.backward)


@dataclass(frozen=True)
class Fits:
    """Training runs of one shape.

    Attributes:
        training: Settings of the runs.
        texts: Texts that are sampled from; their lengths count.
        columns: Columns of an adapter.
        runs: Number of adapters.
        held_out: Texts of one validation table.
        tables: Number of tables that a forward draws ``training.batch_pairs`` groups from each.
        groups: Mean number of groups in a forward of training; 0 is all that it draws.
        groups_spread: Standard deviation of that number.
        backwards: Mean number of backward passes through a forward of training.
    """

    training: Training
    texts: Texts
    columns: float
    runs: int = 1
    held_out: Texts | None = None
    tables: int = 1
    groups: float = 0.0
    groups_spread: float = 0.0
    backwards: float = 1.0


@dataclass(eq=False)
class Work:
    """A run as it is planned: the lengths of its texts, and what is trained and scored already.

    Attributes:
        splits: The data.
        objectives: Names of the M objectives.
        preferences: The N preferences of the run.
        count: Counter of tokens.
        rows: Split -> its prompts with all their responses.
        answer: Mean tokens of a sampled answer.
        test: Held-out prompts with the answers to each at one preference.
        sampling: How answers are sampled.
        max_tokens: Longest prompt and response that is trained on.
        sampled: Responses that are sampled for each row without any; 0 where every row has some.
        assumptions: What the plan assumes, for people.
        too_long: What happens to longer pairs, see :class:`paretune.training.token_tables.Limit`.
    """

    splits: Mapping[str, ScoredDataset]
    objectives: Sequence[str]
    preferences: Sequence[Preference]
    count: Counter
    rows: Mapping[str, Texts]
    answer: float
    test: Texts
    sampling: Sampling
    max_tokens: int
    sampled: int = 0
    assumptions: list[str] = field(default_factory=list)
    too_long: TooLong = "drop"
    _trained: set[Any] = field(init=False, default_factory=set)
    _read: dict[Any, tuple[float, float]] = field(init=False, default_factory=dict)
    _asked: dict[Any, float] = field(init=False, default_factory=dict)
    _pairs: dict[tuple[str, str, str], Texts] = field(init=False, default_factory=dict)

    # Texts

    def pair_texts(self, part: str, objective: str, choose: Choose) -> Texts:
        """Return the pairs of an objective, those of the data where they are scored or labelled already."""
        key = (part, objective if objective in self.splits[part].objectives else "", choose)
        if key not in self._pairs:
            self._pairs[key] = self._pair_texts(*key)
            self._say_long(self._pairs[key], key[1])
        return self._pairs[key]

    def _say_long(self, texts: Texts, objective: str) -> None:
        """Say once for an objective how many of its pairs are too long, and what happens to them."""
        ends = {
            "drop": "are left out",
            "cut": "lose the end of their responses",
            "prompt-left": "lose the beginning of their prompts",
            "refuse": "would stop the run",
        }
        of = f" of {objective}" if objective else ""
        said = f"about {texts.long:.2g} of the pairs{of} have more than {self.max_tokens} tokens and {ends[self.too_long]}"
        if texts.long and not any(f"of the pairs{of} have more than" in one for one in self.assumptions):
            self.assumptions.append(said)

    def _pair_texts(self, part: str, objective: str, choose: Choose) -> Texts:
        dataset, limit = self.splits[part], self.max_tokens
        if objective:
            return of_pairs(pairs(dataset, objective, choose), self.count, limit, self.too_long)
        texts = any_pair(dataset, self.count, limit, self.too_long)
        K = self.rows[part].responses
        if not texts.count and self.sampled:
            texts = replace(self.rows[part], responses=2)
        factor = {"extremes": 1.0, "adjacent": K - 1, "all": K * (K - 1) / 2}[choose]
        return replace(texts, count=texts.count * max(1.0, factor))

    def labelled(self, part: str) -> Texts:
        """Return all pairs that some objective labels."""
        if set(self.objectives) & set(self.splits[part].objectives):
            return of_pairs(labelled_pairs(self.splits[part]), self.count, self.max_tokens, self.too_long)
        return self.pair_texts(part, "", "all")

    def demonstrations(self, part: str) -> Texts:
        """Return responses to imitate, each with its prompt."""
        rows = self.rows[part]
        spread = rows.spread / max(1.0, rows.responses) ** 0.5
        return replace(rows, count=rows.count * rows.responses, responses=1.0, spread=spread)

    # Work

    def once(self, *key: Any) -> bool:
        """Return whether this is the first request for a stage; a stage of equal inputs is reused."""
        fresh = key not in self._trained
        self._trained.add(key)
        return fresh

    def decoding(
        self, rows: float, prompts: Texts, columns: float, copies: float = 1, shared: float = 1
    ) -> Decoding:
        """Return the sampling of answers.

        Args:
            rows: Number of answers.
            prompts: What is answered.
            columns: Columns of the adapters in force.
            copies: Copies of a row that are run: the members of a mixed policy.
            shared: Answers that share the reading of their prompt, see :class:`paretune.planning.cost.Decoding`.
        """
        sampling = self.sampling
        most, together = sampling.max_new_tokens, min(sampling.batch_size, rows)
        new = min(self.answer, most)
        # A batch is padded to its longest prompt; sorted by length, that is far above the mean in a batch of all only.
        padded = prompts.longest if rows <= sampling.batch_size else 1.1 * prompts.prompt
        longest = new + (most - new) * (1 - 1 / max(1, together))
        return Decoding(rows * copies, padded, new, longest, sampling.batch_size * copies, columns, shared)

    def scored(
        self, who: Any, part: str, what: Any, texts: Texts, columns: float, most: float | None = None
    ) -> tuple[Passes, ...]:
        """Return the pass that scores the responses of pairs once, without those that ``who`` has read before.

        Args:
            who: The scoring model.
            part: Part of the data.
            what: Name of the pairs.
            texts: The pairs.
            columns: Number of columns of its adapter.
            most: Largest number of pairs, where a run has steps for no more.
        """
        count = texts.count if most is None else min(texts.count, most)
        if count <= self._asked.get((who, part, what), 0.0):
            return ()
        self._asked[who, part, what] = count
        rows, K = self.rows[part].count, max(self.rows[part].responses, 1.0)
        hit, per_row = count, min(texts.responses, K)
        if texts.count > rows:  # several pairs per row: some share a prompt, and some a response
            hit = rows * (1 - (1 - 1 / rows) ** count) if rows else 0.0
            per_row = K * (1 - (1 - per_row / K) ** (count / max(hit, 1e-9)))
        seen_rows, seen_per_row = self._read.get((who, part), (0.0, 0.0))
        fresh, old = max(0.0, hit - seen_rows), min(hit, seen_rows)
        unseen = (
            per_row * (1 - min(1.0, seen_per_row / K))
            if texts.responses < K
            else max(0.0, per_row - seen_per_row)
        )
        self._read[who, part] = (max(hit, seen_rows), min(K, max(per_row, seen_per_row + unseen)))
        passes = [
            reading(replace(texts, count=fresh, responses=per_row), columns),
            reading(replace(texts, count=old * min(1.0, unseen), responses=max(unseen, 1.0)), columns),
        ]
        return tuple(work for work in passes if work.tokens >= 1)

    def read_share(self, who: Any, part: str) -> float:
        """Return the share of all responses of a part of the data that the model ``who`` has read so far."""
        rows, responses = self._read.get((who, part), (0.0, 0.0))
        texts = self.rows[part]
        return rows * responses / max(1.0, texts.count * texts.responses)

    def trained(self, name: str, what: str, fits: Fits, others: Sequence[Passes] = ()) -> Stage:
        """Return the stage that trains adapters.

        Args:
            name, what: Of the stage.
            fits: The training runs.
            others: Passes beside those of training.
        """
        training, texts, runs, held_out = fits.training, fits.texts, fits.runs, fits.held_out
        groups, pairs = fits.groups or training.batch_pairs * fits.tables, float(training.batch_pairs)
        if training.batch_tokens:
            pairs = min(pairs, self.bounded(training.batch_tokens, texts, fits.tables))
            groups = min(groups, pairs * fits.tables)
        forwards = runs * training.steps * training.accumulate
        every = training.validate_every or max(1, training.steps // 4)
        times = ceil(training.steps / every)
        read = passes(replace(texts, count=forwards * groups), forwards, fits.columns, True)
        works = [replace(read, backwards=fits.backwards)]
        if held_out is not None and held_out.count:
            batches = ceil(held_out.count / pairs)
            validated = replace(held_out, count=held_out.count * fits.tables * times * runs)
            works.append(passes(validated, batches * times * runs, fits.columns))
        # The largest of many forwards is well above the mean one.
        deviation = (groups * texts.spread**2 + (texts.tokens * fits.groups_spread) ** 2) ** 0.5
        tokens = groups * texts.tokens + 2 * deviation
        if training.batch_tokens:
            alone = fits.tables * texts.tokens + 2 * fits.tables**0.5 * texts.spread
            tokens = min(tokens, max(float(training.batch_tokens), alone))
        share = tokens / max(texts.tokens, 1)
        return Stage(
            name,
            f"{runs} run{'s' * (runs != 1)} of {training.steps} steps, {what}",
            (*others, *works),
            columns=(fits.columns,) * runs,
            step=Step(tokens, share * texts.targets, share * texts.seen, texts.responses),
        )

    def bounded(self, tokens: int, texts: Texts, tables: int) -> float:
        """Return the mean number of rows of each table in forwards of at most ``tokens``, and say it.

        A forward ends before the group that would be too much, so half of one is missing on average.
        """
        rows = max(1.0, tokens / max(1.0, tables * texts.tokens) - 0.5)
        said = f"train.batch_tokens={tokens} lets a forward have about {rows * tables:.3g} pairs of {texts.tokens:.0f} tokens"
        if said not in self.assumptions:
            self.assumptions.append(said)
        return rows

    def corners(
        self,
        beta: float,
        choose: Choose,
        training: Training,
        divergence: Divergence = "reverse-kl",
        nll: float = 0.0,
        anchor: float = 0.0,
    ) -> list[Stage]:
        """Return the stages that score pairs for the single-objective models and train these; none where they are there."""
        if not self.once("dpo", beta, choose, training, divergence, nll, anchor):
            return []
        stages = []
        reference: list[Passes] = []
        for objective in self.objectives:
            for part, limit in (("train", training.draws), ("validation", None)):
                texts = self.pair_texts(part, objective, choose)
                reference += self.scored("base", part, (objective, choose), texts, 0, limit)
        if reference:
            stages.append(Stage("reference", "log-probabilities of the base model, kept", tuple(reference)))
        train, held_out = (
            self.pair_texts(part, self.objectives[0], choose) for part in ("train", "validation")
        )
        fits = Fits(training, train, training.rank, len(self.objectives), held_out)
        under = "" if divergence == "reverse-kl" else f", {divergence}"
        return [*stages, self.trained(f"train: dpo{under}", "one per objective", fits)]

    def asked_tokens(self) -> int:
        """Return the tokens that a preference adds to a prompt as tags of levels, counted at one prompt and equal weights."""
        low_and_high = np.array([[0.0] * len(self.objectives), [1.0] * len(self.objectives)])
        prompting = Prompting.of(self.objectives, low_and_high, form="levels")
        prompt = self.splits["train"].rows[0].prompt
        asked = prompting.prompt(prompt, prompting.targets(Preference.uniform(self.objectives)))
        return self.count.prompt(asked) - self.count.prompt(prompt)

    def on_policy(
        self,
        name: str,
        what: str,
        settings: RLSettings,
        training: Training,
        columns: float,
        runs: int = 1,
        *,
        asked: int = 0,
        backwards: float = 1.0,
    ) -> Stage:
        """Return the stage that samples, reads the answers by the base model, and trains on them.

        Args:
            name: Name of the entry.
            what: What each of the adapters is for.
            settings: How the policy learns from its own responses.
            training: How adapters are trained; ``batch_pairs`` counts prompts.
            columns: Columns of an adapter.
            runs: Number of adapters.
            asked: Tokens that the policy reads of a prompt and the base model does not.
            backwards: Mean number of backward passes through a forward.
        """
        K, prompts = settings.responses, training.accumulate * training.batch_pairs
        rollouts = runs * ceil(training.steps / settings.epochs)
        answers = rollouts * prompts * K
        rows = self.rows["train"]
        texts = replace(rows, count=rollouts * prompts, responses=float(K), response=self.answer)
        told = replace(texts, prompt=texts.prompt + asked, longest=texts.longest + asked)
        step = self.decoding(prompts * K, told, columns, shared=K)
        decoding = replace(step, rows=step.rows * rollouts, batch=min(step.batch, step.rows))
        forwards = rollouts * training.accumulate
        # The base model reads every answer; so does the policy that drew it, where several steps are taken on it.
        read = [passes(texts, forwards, 0)]
        read += [passes(told, forwards, columns)] if settings.remembers else []
        what = f"{what}; {answers} answers are sampled on the way"
        stage = self.trained(
            f"train: {name}", what, Fits(training, told, columns, runs, backwards=backwards), read
        )
        return replace(stage, decodings=(decoding,), judged=answers)

    def anchors(
        self,
        name: str,
        what: str,
        settings: RLSettings,
        conditioning: Conditioning,
        training: Training,
        preferences: Sequence[Preference],
        beside: str = "",
    ) -> list[Stage]:
        """Return the stage that trains the on-policy adapters of these preferences that are not there yet; none where all are.

        ``beside`` is what decides an adapter beside ``settings`` and ``conditioning``, in words.
        """
        learning = (*(getattr(settings, field.name) for field in fields(RLSettings)), beside)
        made = [w for w in preferences if self.once("on-policy", learning, conditioning, str(w), training)]
        if not made:
            return []
        mean = sum(backward_passes(w, conditioning.rule) for w in made) / len(made)
        return [self.on_policy(name, what, settings, training, training.rank, len(made), backwards=mean)]


def inner(preferences: Sequence[Preference]) -> int:
    """Return how many preferences give several objectives a weight."""
    return sum(max(preference.weights) < 1 for preference in preferences)


def passes(texts: Texts, forwards: float, columns: float, backward: bool = False) -> Passes:
    """Return packed forwards over groups."""
    n = texts.count
    return Passes(
        n * texts.tokens,
        n * texts.targets,
        n * texts.seen,
        forwards,
        n * (1 + texts.responses),
        columns,
        backward,
    )


def reading(texts: Texts, columns: float) -> Passes:
    """Return the forwards that score responses, packed to a budget of tokens."""
    return passes(texts, max(1.0, texts.count * texts.tokens / SCORING_TOKENS), columns)
