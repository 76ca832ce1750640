"""A run as it is planned: how long its texts are, what is trained and scored already, and the work of each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from paretune.core.errors import DataError
from paretune.core.preference import Preference
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Choose, labelled_pairs, pairs
from paretune.planning.cost import Decoding, Passes
from paretune.planning.lengths import Counter, Texts, any_pair, counter, of_pairs, of_rows
from paretune.runs.config import RunConfig
from paretune.runs.prepare import load_splits
from paretune.training.loop import Training

SCORING_TOKENS = 1024
"""Tokens of one forward that scores responses, see :func:`paretune.generation.generate.response_logps`."""
ANSWER_SHARE = 0.6
"""Length of an answer as a share of ``max_new_tokens``, where the data hold no response to take it from."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: such as ``train: dpo``.
        what: it does, for people.
        passes, decodings: work of the model.
        judged: answers that every scorer rates.
        columns: of the adapters that the stage leaves on disk, one number an adapter.
        step: tokens and scored positions of its largest forward with gradients.
    """

    name: str
    what: str
    passes: tuple[Passes, ...] = ()
    decodings: tuple[Decoding, ...] = ()
    judged: float = 0.0
    columns: tuple[float, ...] = ()
    step: tuple[float, float] = (0.0, 0.0)

    @property
    def trained(self) -> float:
        """Tokens that go forward and backward."""
        return sum(work.tokens for work in self.passes if work.backward)


@dataclass(eq=False)
class Work:
    """A run as it is planned: the data's lengths, and what is trained and scored already.

    Attributes:
        config: of the run.
        splits: the data.
        objectives, preferences, fine: as the run will have them.
        count: of tokens.
        rows: of each split the prompts with all their responses.
        answer: mean tokens of a sampled answer.
        test: held-out prompts with the answers to each at one preference.
        said: what was assumed.
    """

    config: RunConfig
    splits: dict[str, ScoredDataset] = field(init=False)
    objectives: list[str] = field(init=False)
    preferences: list[Preference] = field(init=False)
    fine: list[Preference] = field(init=False)
    count: Counter = field(init=False)
    rows: dict[str, Texts] = field(init=False)
    answer: float = field(init=False)
    test: Texts = field(init=False)
    said: list[str] = field(init=False)
    _trained: set[Any] = field(init=False, default_factory=set)
    _read: dict[Any, tuple[float, float]] = field(init=False, default_factory=dict)
    _asked: dict[Any, float] = field(init=False, default_factory=dict)
    _pairs: dict[tuple[str, str, str], Texts] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        config = self.config
        self.splits, self.count = load_splits(config), counter(config.model)
        named = [str(spec.get("objective")) for spec in config.score]
        known = self.splits["train"].objectives
        self.objectives = list(config.objectives) or list(dict.fromkeys([*known, *named]))
        self.preferences, self.fine = config.grid(self.objectives), config.fine_grid(self.objectives)
        config.extrapolations(self.objectives)
        self.rows = {name: of_rows(part.rows, self.count) for name, part in self.splits.items()}
        most = config.sampling.max_new_tokens
        if self._bare():
            drawn = {"responses": float(config.data.sample), "response": ANSWER_SHARE * most}
            self.rows |= {name: replace(self.rows[name], **drawn) for name in ("train", "validation")}
        self.answer = min(self.rows["train"].response or ANSWER_SHARE * most, most)
        unique = len({row.key for row in self.splits["test"].rows})
        self.test = replace(
            self.rows["test"],
            count=min(unique, config.evaluate.prompts or unique),
            responses=float(config.evaluate.samples),
            response=self.answer,
        )
        self.said = [
            f"token counts: {self.count.said}",
            f"a sampled answer has {self.answer:.0f} tokens, the mean of the data's responses, and one of every batch has all "
            f"{most}",
            "training runs take all their steps, and nothing is found finished in the run folder",
        ]
        if config.endpoint is not None:
            self.said.append(f"answers that {config.endpoint.url} draws are counted as drawn here")
        if not set(self.objectives) <= set(known):
            self.said.append(
                "which pair of a prompt's responses is trained on is not known before they are scored: any"
            )

    def _bare(self) -> int:
        """Return how many rows of training have no response, or say how to draw some."""
        rows = [row for name in ("train", "validation") for row in self.splits[name].rows]
        bare = [row for row in rows if not row.responses]
        if bare and not self.config.data.sample:
            raise DataError(
                f"{bare[0].source or 'the data'}: {len(bare)} of {len(rows)} rows have no response; set data.sample to draw "
                "some from the base model, for example data.sample=4"
            )
        return len(bare)

    def data_stages(self) -> list[Stage]:
        """Return what is done before training: responses are drawn where there are none, and scored."""
        sizes = {name: len({row.key for row in part.rows}) for name, part in self.splits.items()}
        drawn = self._bare() * self.config.data.sample
        works = (self.decoding(drawn, self.rows["train"], 0),) if drawn else ()
        stages = [
            Stage("data", ", ".join(f"{n} {name}" for name, n in sizes.items()) + " prompts", decodings=works)
        ]
        named = [str(spec.get("objective")) for spec in self.config.score]
        silent = [name for name in named if name not in self.splits["train"].objectives]
        texts = [self.rows[name] for name in ("train", "validation")]
        judged = sum(each.count * each.responses for each in texts) if silent else 0.0
        return [*stages, Stage("score", ", ".join(named) or "labels of the data", judged=judged)]

    # Texts

    def pair_texts(self, part: str, objective: str, choose: Choose) -> Texts:
        """Return the pairs of an objective, those of the data where they are scored or labelled already."""
        key = (part, objective if objective in self.splits[part].objectives else "", choose)
        if key not in self._pairs:
            self._pairs[key] = self._pair_texts(*key)
        return self._pairs[key]

    def _pair_texts(self, part: str, objective: str, choose: Choose) -> Texts:
        dataset, limit = self.splits[part], self.config.train.max_tokens
        if objective:
            return of_pairs(pairs(dataset, objective, choose), self.count, limit)
        found = any_pair(dataset, self.count, limit)
        K = self.rows[part].responses
        if not found.count and self.config.data.sample:
            found = replace(self.rows[part], responses=2)
        factor = {"extremes": 1.0, "adjacent": K - 1, "all": K * (K - 1) / 2}[choose]
        return replace(found, count=found.count * max(1.0, factor))

    def labelled(self, part: str) -> Texts:
        """Return all pairs that some objective labels."""
        if set(self.objectives) & set(self.splits[part].objectives):
            return of_pairs(labelled_pairs(self.splits[part]), self.count, self.config.train.max_tokens)
        return self.pair_texts(part, "", "all")

    # Work

    def once(self, *key: Any) -> bool:
        """Tell whether this is asked for the first time: a stage of equal inputs is found again."""
        fresh = key not in self._trained
        self._trained.add(key)
        return fresh

    def decoding(
        self, rows: float, prompts: Texts, columns: float, copies: float = 1, limit: int = 0
    ) -> Decoding:
        """Return the sampling of ``rows`` answers, each by ``copies`` of the model."""
        sampling = self.config.sampling
        most, together = limit or sampling.max_new_tokens, min(sampling.batch_size, rows)
        new = min(self.answer, most)
        # A batch is padded to its longest prompt; sorted by length, that is far above the mean in a batch of all only.
        padded = prompts.longest if rows <= sampling.batch_size else 1.1 * prompts.prompt
        longest = new + (most - new) * (1 - 1 / max(1, together))
        return Decoding(rows * copies, padded, new, longest, sampling.batch_size * copies, columns)

    def scored(
        self, who: Any, part: str, what: Any, texts: Texts, columns: float, most: float | None = None
    ) -> tuple[Passes, ...]:
        """Return the pass that scores the responses of pairs once; those that ``who`` has read before are found again.

        Args:
            who: the scoring model.
            part: of the data.
            what: names the pairs.
            texts: the pairs.
            columns: of its adapter.
            most: pairs at most, where a run has steps for no more.
        """
        count = texts.count if most is None else min(texts.count, most)
        if count <= self._asked.get((who, part, what), 0.0):
            return ()
        self._asked[who, part, what] = count
        rows, K = self.rows[part].count, max(self.rows[part].responses, 1.0)
        hit, each = count, min(texts.responses, K)
        if texts.count > rows:  # several pairs a row: some share a prompt, and some a response
            hit = rows * (1 - (1 - 1 / rows) ** count) if rows else 0.0
            each = K * (1 - (1 - each / K) ** (count / max(hit, 1e-9)))
        seen_rows, seen_each = self._read.get((who, part), (0.0, 0.0))
        fresh, old = max(0.0, hit - seen_rows), min(hit, seen_rows)
        unseen = each * (1 - min(1.0, seen_each / K)) if texts.responses < K else max(0.0, each - seen_each)
        self._read[who, part] = (max(hit, seen_rows), min(K, max(each, seen_each + unseen)))
        found = [
            reading(replace(texts, count=fresh, responses=each), columns),
            reading(replace(texts, count=old * min(1.0, unseen), responses=max(unseen, 1.0)), columns),
        ]
        return tuple(work for work in found if work.tokens >= 1)

    def trained(
        self,
        name: str,
        what: str,
        training: Training,
        texts: Texts,
        columns: float,
        *,
        runs: int = 1,
        held_out: Texts | None = None,
        groups: float = 0.0,
        groups_spread: float = 0.0,
        others: Sequence[Passes] = (),
    ) -> Stage:
        """Return the stage that trains ``runs`` adapters.

        Args:
            name, what: of the stage.
            training: its settings.
            texts: what is drawn from; its lengths count.
            columns: of an adapter.
            runs: adapters.
            held_out: what is validated on.
            groups: of one forward on average, where they are not ``batch_pairs``.
            groups_spread: their standard deviation.
            others: passes beside those of training.
        """
        groups = groups or training.batch_pairs
        forwards = runs * training.steps * training.accumulate
        every = training.validate_every or max(1, training.steps // 4)
        times = ceil(training.steps / every)
        works = [passes(replace(texts, count=forwards * groups), forwards, columns, True)]
        if held_out is not None and held_out.count:
            batches = ceil(held_out.count / training.batch_pairs)
            works.append(
                passes(
                    replace(held_out, count=held_out.count * times * runs), batches * times * runs, columns
                )
            )
        # The largest of many forwards is well above the mean one.
        deviation = (groups * texts.spread**2 + (texts.tokens * groups_spread) ** 2) ** 0.5
        tokens = groups * texts.tokens + 2 * deviation
        counted = f"{runs} run{'s' * (runs != 1)} of {training.steps} steps, {what}"
        return Stage(
            name,
            counted,
            (*others, *works),
            columns=(columns,) * runs,
            step=(tokens, tokens * texts.targets / max(texts.tokens, 1)),
        )

    def dpo(self, beta: float, choose: Choose, training: Training) -> list[Stage]:
        """Return the stage that trains the single-objective models, and its scoring; nothing where they are there."""
        if not self.once("dpo", beta, choose, training):
            return []
        most = training.steps * training.accumulate * training.batch_pairs
        stages = []
        reference: list[Passes] = []
        for objective in self.objectives:
            for part, limit in (("train", most), ("validation", None)):
                texts = self.pair_texts(part, objective, choose)
                reference += self.scored("base", part, (objective, choose), texts, 0, limit)
        if reference:
            stages.append(Stage("reference", "log-probabilities of the base model, kept", tuple(reference)))
        first = self.objectives[0]
        stages.append(
            self.trained(
                "train: dpo",
                "one an objective",
                training,
                self.pair_texts("train", first, choose),
                training.rank,
                runs=len(self.objectives),
                held_out=self.pair_texts("validation", first, choose),
            )
        )
        return stages


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
