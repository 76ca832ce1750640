"""A preference for each prompt, w(x) = softmax(A e(x) + b), learned from votes or labels; e(x) is a frozen embedding.

A vote on two answers with score differences d, in units of `Surface.scale`, has the likelihood of
:mod:`paretune.choosing.posterior`, ``sigmoid(w(x).d / noise)`` with a tie for half of each side, but for slips: one vote in twenty
is cast at random (`SLIPS`), so that a single vote against the rest costs no more than 3.7 nats. Without them the fit to few votes,
which often agree without exception, is sure of itself beyond all sense. A label q is learned by its cross-entropy
``-q.log w(x)``. Before any data b is that of w uniform on the simplex, and A is 0 up to a deviation s:

    loss(A, b, noise) = sum_v -log P(v) - sum_m log softmax(b)_m + |A|^2 / (2 s^2)

With s = 0 this is the constant preference: the mode, in log-odds, of the posterior that all votes share. s is chosen by
cross-validation over prompts, 0 among the choices. Whether the head is better than the constant is told on prompts that neither
was fitted to, s included (:func:`held_out`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from scipy.special import expit

from paretune.choosing.posterior import Ballot
from paretune.core.errors import DataError
from paretune.core.preference import Preference
from paretune.fronts.front import Front
from paretune.fronts.inference import Comparison, compare
from paretune.fronts.surface import as_preference

SPREADS = (0.0, 1.0, 3.0, 9.0)
"""Deviations s that are tried: how far log-odds of weights may lie apart between prompts."""
NOISE = (0.01, 100.0)
"""The least and the most noise of votes. Single answers differ more than the means that are their unit, so the most is large."""
SLIPS = 0.05
"""The share of votes that are cast at random."""
ROUGH = 1e-7
"""The precision of fits that only choose s."""
MOST_COMPONENTS = 32
PROMPTS_PER_COMPONENT = 4
"""An embedding is reduced to its first principal components: at most one for so many prompts."""
FOLDS = 5
FEWEST_PROMPTS = 30
"""With fewer prompts nothing could be shown on those that are held out."""


class Targets(Protocol):
    """What V rows teach about the weights at their prompts."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray) -> Targets: ...

    def losses(self, logits: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the loss ``[V]`` in nats at logits ``[V, M]``, and its slopes by logits ``[V, M]`` and by log noise ``[V]``."""

    def hits(self, logits: np.ndarray) -> np.ndarray:
        """Return how well weights do for people ``[V]``, from 0 to 1; NaN where a row does not say."""


@dataclass(frozen=True, eq=False)
class Votes:
    """Score differences ``[V, M]`` of the first less the second answer, in units; who won ``[V]``: 1, -1, or 0 for a tie."""

    differences: np.ndarray
    winners: np.ndarray

    def __len__(self) -> int:
        return len(self.winners)

    def __getitem__(self, rows: np.ndarray) -> Votes:
        return Votes(self.differences[rows], self.winners[rows])

    def losses(self, logits: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return losses and slopes, see :class:`Targets`."""
        weights = softmax(logits)
        utility = (weights * self.differences).sum(1)
        lead = utility / noise
        first, second = ((1 - SLIPS) * expit(side * lead) + SLIPS / 2 for side in (1, -1))
        for_first = (1 + self.winners) / 2  # a tie is half a vote for each
        loss = -for_first * np.log(first) - (1 - for_first) * np.log(second)
        steep = (1 - SLIPS) * expit(lead) * expit(-lead)
        slope = steep * ((1 - for_first) / second - for_first / first)
        by_logits = slope[:, None] * weights * (self.differences - utility[:, None]) / noise
        return loss, by_logits, -slope * lead

    def hits(self, logits: np.ndarray) -> np.ndarray:
        """Return whether the answer that won has the higher utility; half where both have the same, NaN for ties."""
        lead = (softmax(logits) * self.differences).sum(1) * self.winners
        return np.where(self.winners == 0, np.nan, (lead > 0) + 0.5 * (lead == 0))


@dataclass(frozen=True, eq=False)
class Labels:
    """Wanted weights ``[V, M]`` on the simplex."""

    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, rows: np.ndarray) -> Labels:
        return Labels(self.weights[rows])

    def losses(self, logits: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return losses and slopes, see :class:`Targets`; a label has no noise."""
        logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        return -(self.weights * logs).sum(1), np.exp(logs) - self.weights, np.zeros(len(self))

    def hits(self, logits: np.ndarray) -> np.ndarray:
        """Return the share of weight that stands where it is wanted, ``sum_m min(q_m, w_m)``."""
        return np.asarray(np.minimum(softmax(logits), self.weights).sum(1))


def votes_of(ballots: Sequence[Ballot], scale: np.ndarray, objectives: Sequence[str]) -> Votes:
    """Return ballots as arrays; ``scale [M]`` are the units of the scores, see `Surface.scale`."""
    rows = [[ballot.first[name] - ballot.second[name] for name in objectives] for ballot in ballots]
    winners = [{"first": 1.0, "second": -1.0, "tie": 0.0}[ballot.winner] for ballot in ballots]
    return Votes(np.array(rows).reshape(len(rows), len(objectives)) / scale, np.array(winners))


@dataclass(frozen=True, eq=False)
class Lessons:
    """V rows on P prompts.

    Attributes:
        embeddings: Of the prompts ``[P, D]``.
        place: The number of the prompt of each row ``int [V]``; every prompt has a row.
        targets: What the rows teach.
        objectives: M names.
    """

    embeddings: np.ndarray
    place: np.ndarray
    targets: Targets
    objectives: tuple[str, ...]

    def of(self, prompts: np.ndarray) -> Lessons:
        """Return the rows of the prompts where ``prompts`` ``bool [P]`` is true."""
        rows, numbers = prompts[self.place], np.cumsum(prompts) - 1
        return replace(
            self,
            embeddings=self.embeddings[prompts],
            place=numbers[self.place[rows]],
            targets=self.targets[rows],
        )

    def by_prompt(self, values: np.ndarray) -> np.ndarray:
        """Return the mean ``[P]`` over the rows of each prompt of values ``[V]``."""
        count = len(self.embeddings)
        totals = np.bincount(self.place, values, count)
        return np.asarray(totals / np.bincount(self.place, minlength=count))


@dataclass(frozen=True, eq=False)
class Head:
    """A fitted head.

    Attributes:
        objectives: M names.
        centre: The mean embedding ``[D]`` of the prompts of the fit.
        directions: Principal components ``[D, K]``, divided by one size, so that the mean squared norm of what they give is near 1.
        slopes: A ``[M, K]``; 0 where the head is the constant preference.
        logits: b ``[M]``.
        constant: Weights ``[M]`` of the constant preference.
        noise: Noise of a vote in units of scores; 1 for labels.
        spread: s.
    """

    objectives: tuple[str, ...]
    centre: np.ndarray
    directions: np.ndarray
    slopes: np.ndarray
    logits: np.ndarray
    constant: np.ndarray
    noise: float
    spread: float

    def raw(self, embeddings: np.ndarray) -> np.ndarray:
        """Return the logits ``[n, M]`` at embeddings ``[n, D]``."""
        return np.asarray(self.logits + (embeddings - self.centre) @ self.directions @ self.slopes.T)

    def preferences(self, embeddings: np.ndarray) -> list[Preference]:
        """Return w(x) at embeddings ``[n, D]``."""
        rows = softmax(self.raw(np.asarray(embeddings, dtype=np.float64)))
        return [as_preference(row, self.objectives) for row in rows]

    @property
    def constant_preference(self) -> Preference:
        """The constant preference."""
        return as_preference(self.constant, self.objectives)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return weights ``[..., M]`` on the simplex."""
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def fit(lessons: Lessons, spreads: Sequence[float], precision: float = 1e-12) -> list[Head]:
    """Return the head of the least loss at each deviation s, which are in rising order; at 0 it is the constant preference.

    ``precision`` is the relative change of the loss at which a search ends.
    """
    M, P = len(lessons.objectives), len(lessons.embeddings)
    centre, directions = _reduced(lessons.embeddings, min(MOST_COMPONENTS, P // PROMPTS_PER_COMPONENT))
    features = ((lessons.embeddings - centre) @ directions)[lessons.place]
    K = features.shape[1]
    targets = lessons.targets

    def loss(parameters: np.ndarray, size: int, spread: float) -> tuple[float, np.ndarray]:
        slopes, logits = parameters[: M * size].reshape(M, size), parameters[M * size : -1]
        seen = features[:, :size]
        each, by_logits, by_noise = targets.losses(logits + seen @ slopes.T, math.exp(parameters[-1]))
        logs = logits - np.logaddexp.reduce(logits)
        value = each.sum() - logs.sum() + (slopes**2).sum() / (2 * spread**2)
        turned = by_logits.T @ seen + slopes / spread**2
        ahead = by_logits.sum(0) - 1 + M * np.exp(logs)
        return float(value), np.concatenate([turned.ravel(), ahead, [by_noise.sum()]])

    from scipy.optimize import minimize  # a server does without it, and starts earlier

    def least(start: np.ndarray, size: int, spread: float) -> np.ndarray:
        bounds = [(None, None)] * (M * size + M) + [(math.log(NOISE[0]), math.log(NOISE[1]))]
        options = {"maxiter": 500, "ftol": precision, "gtol": 1e-7}
        found = minimize(loss, start, (size, spread), "L-BFGS-B", jac=True, bounds=bounds, options=options)
        return np.asarray(found.x)

    alone = least(np.zeros(M + 1), 0, 1.0)  # from all weights alike, and noise of one unit
    found = np.concatenate([np.zeros(M * K), alone])
    heads = []
    for spread in spreads:
        found = least(found, K, spread) if spread and K else found
        slopes, logits = found[: M * K].reshape(M, K), found[M * K : -1]
        noise = math.exp(found[-1])
        heads.append(
            Head(lessons.objectives, centre, directions, slopes, logits, softmax(alone[:M]), noise, spread)
        )
    return heads


def _reduced(embeddings: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean ``[D]`` and the first principal components ``[D, K]`` over one size.

    One size leaves directions in which prompts hardly differ as small as they are; dividing each by its own would raise noise.
    """
    centre = embeddings.mean(0)
    centred = embeddings - centre
    size = float((centred**2).sum(1).mean() ** 0.5)
    if size < 1e-9:  # all prompts are alike
        return centre, np.zeros((embeddings.shape[1], 0))
    _, _, rows = np.linalg.svd(centred, full_matrices=False)
    return centre, rows[:components].T / size


def fit_chosen(lessons: Lessons, seed: int = 0) -> Head:
    """Return the head with the deviation s of the lowest loss in cross-validation over prompts; of equal ones the smallest s."""
    part = _parts(len(lessons.embeddings), seed)
    totals = np.zeros(len(SPREADS))
    for fold in range(FOLDS):
        test = lessons.of(part == fold)
        heads = fit(lessons.of(part != fold), SPREADS, ROUGH)
        totals += [_judged(head, test)[0].sum() for head in heads]
    return fit(lessons, [SPREADS[int(np.round(totals, 9).argmin())]])[0]


def _parts(count: int, seed: int) -> np.ndarray:
    """Return the fold of each of ``count`` prompts."""
    return np.asarray(np.random.default_rng(seed).permutation(count) % FOLDS)


def _judged(head: Head, lessons: Lessons) -> tuple[np.ndarray, np.ndarray]:
    """Return a head's loss at each prompt ``[P]``, and its hits at each row ``[V]``."""
    logits = head.raw(lessons.embeddings)[lessons.place]
    losses = lessons.targets.losses(logits, head.noise)[0]
    return lessons.by_prompt(losses), lessons.targets.hits(logits)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a head predicts of rows on prompts that it was not fitted to, beside the constant preference.

    Attributes:
        comparison: The paired test over prompts of minus the loss, head less constant, in deviations.
        gain, low, high: The same in nats per row, with its 95 % interval; above 0 the head is better.
        hits, constant_hits: Mean of `Targets.hits` over rows that say.
    """

    comparison: Comparison
    gain: float
    low: float
    high: float
    hits: float
    constant_hits: float

    @property
    def better(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low > 0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        numbers = {
            name: getattr(self, name) for name in ("gain", "low", "high", "hits", "constant_hits", "better")
        }
        tested = self.comparison
        more = {"p_value": tested.p_value, "enough_prompts": tested.enough_prompts}
        return {**numbers, **more, "detectable": tested.detectable * float(tested.unit[0])}


def held_out(lessons: Lessons, seed: int = 0) -> HeldOut:
    """Return what the head and the constant preference predict where neither was fitted: each prompt is held out once.

    The whole procedure is judged: in every part of the cross-fitting s is chosen anew, from the other parts alone.

    Raises:
        DataError: Too few prompts, one objective, or rows that say nothing about weights.
    """
    P = len(lessons.embeddings)
    if P < FEWEST_PROMPTS:
        raise DataError(
            f"{len(lessons.targets)} rows on {P} prompts are too few to learn a preference for each prompt, and to show that it is "
            f"better than a constant one; at least {FEWEST_PROMPTS} different prompts are needed, better some hundreds"
        )
    if len(lessons.objectives) < 2:
        raise DataError(f"{lessons.objectives[0]} is the only objective, so there is nothing to choose")
    part = _parts(P, seed)
    losses, hits = np.zeros((2, P)), np.zeros((2, len(lessons.targets)))
    for fold in range(FOLDS):
        train, test, there = lessons.of(part != fold), lessons.of(part == fold), part == fold
        for n, head in enumerate((fit_chosen(train, seed), *fit(train, [0.0]))):
            losses[n, there], hits[n, there[lessons.place]] = _judged(head, test)
    if np.ptp(losses) < 1e-12:
        raise DataError(
            "the two answers of every vote have the same scores, so votes say nothing about weights"
        )
    fronts = [
        Front(name, ("log-likelihood",), np.ones((1, 1)), -values[None, :, None], tuple(map(str, range(P))))
        for name, values in zip(("auto", "constant"), losses, strict=True)
    ]
    tested = compare(fronts[0], fronts[1])
    unit = float(tested.unit[0])
    mean = np.nanmean(hits, axis=1)
    figures = (tested.difference * unit, tested.low * unit, tested.high * unit)
    return HeldOut(tested, *figures, float(mean[0]), float(mean[1]))
