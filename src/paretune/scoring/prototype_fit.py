"""The fit of prototypes to people's votes, with what it predicts of held-out ones.

Prompts are held out, on which it is told how many votes are predicted, and people, whose weights are then found from a few of their
votes, as those of anybody new.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.errors import DataError
from paretune.core.folder_form import refuse_foreign
from paretune.data.person_votes import CURE, PersonVote, by_user
from paretune.scoring import bradley_terry as bt
from paretune.scoring import encoder as encode
from paretune.scoring.agreement import wilson
from paretune.scoring.ideal_points import Ballots, PALForm, fit, fit_user, margins, mean_loss
from paretune.scoring.prototypes import (
    FORM,
    PrototypeReport,
    Prototypes,
    ballots_of,
    features_of,
    scaled_ballots,
    simplex,
)

L2_GRID = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4)
STARTS = 4
"""Random starts of a fit; the one of the lowest validation loss is kept."""
SHARES = (0.7, 0.15)
"""Shares of the prompts that are trained on, and that choose the strength of regularisation; the others are held out."""
UNSEEN, FEWEST_FOR_UNSEEN = 0.2, 5
"""Share of the people who are held out as new ones, where there are at least so many."""
CURVE = (0, 1, 2, 5, 10, 20, 50, 100)
"""Numbers of votes of a new person at which the accuracy is told."""


@dataclass(frozen=True, eq=False)
class Learned:
    """What votes as arrays teach: parameters (scales and mean logits among them), logits of all users ``[U, K]``, and figures."""

    parameters: dict[str, np.ndarray]
    logits: np.ndarray
    figures: dict[str, Any]


def learn(form: PALForm, ballots: Ballots, prompts: Sequence[object], seed: int = 0) -> Learned:
    """Learn prototypes from votes as arrays, and what they predict of held-out ones.

    Args:
        form: The form of the model.
        ballots: V votes; their users are numbered from 0 without a gap.
        prompts: Key of the prompt of each vote, by which votes are held out.
        seed: Seed of the split and of the starts.

    Raises:
        DataError: Too few votes or people.
    """
    users = int(ballots.users.max()) + 1
    random = np.random.default_rng(seed)
    new = random.permutation(users)[: int(UNSEEN * users) if users >= FEWEST_FOR_UNSEEN else 0]
    seen = ~np.isin(ballots.users, new)
    part = _parts_of(prompts, random)
    counts = {name: int((seen & (part == n)).sum()) for n, name in enumerate(("train", "validation", "test"))}
    if min(counts.values()) < bt.MIN_PAIRS:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(
            f"too few votes for prototypes: {told}, of {len(set(prompts))} prompts and {users} people; expected at least "
            f"{bt.MIN_PAIRS} in each part, on prompts of their own"
        )
    scale = _scale_of(ballots[seen & (part == 0)])
    every = scaled_ballots(scale, ballots)
    fitting, test = every[seen & (part < 2)], every[seen & (part == 2)]
    choosing = every[seen & (part == 0)], every[seen & (part == 1)]
    found, logits, l2 = _best(form, *choosing, fitting, users)
    one, alone, _ = _best(replace(form, prototypes=1), *choosing, fitting, users)
    mean = logits[np.unique(fitting.users)].mean(0)
    right = _right(margins(form, found, logits, test), test.signs)
    held_out = len({key for key, kept in zip(prompts, seen & (part == 2), strict=True) if kept})
    low, high = wilson(float(right.mean()), held_out)
    figures = {
        "unseen_users": len(new),
        "test_votes": len(right),
        "accuracy": float(right.mean()),
        "low": low,
        "high": high,
        "one_taste": float(_right(margins(replace(form, prototypes=1), one, alone, test), test.signs).mean()),
        "new_users": _new_users(form, found, mean, every, part, new),
        "l2": l2,
    }
    for user in new:  # their weights come from their own votes alone, as those of anybody new
        logits[user] = fit_user(form, found, every[ballots.users == user], mean)
    return Learned({**found, **scale, "logits": mean}, logits, figures)


def _parts_of(prompts: Sequence[object], random: np.random.Generator) -> np.ndarray:
    """Return the part of each vote, 0 to train, 1 to choose and 2 to test: all votes on a prompt are in one."""
    distinct = list(dict.fromkeys(prompts))
    ends = np.round(np.cumsum(SHARES) * len(distinct))
    ranks = dict(zip(distinct, random.permutation(len(distinct)).tolist(), strict=True))
    return np.array([int(np.searchsorted(ends, ranks[key], side="right")) for key in prompts])


def _scale_of(ballots: Ballots) -> dict[str, np.ndarray]:
    """Return the mean of features and one size for all of them, so that their mean squared norm is 1.

    One size leaves directions in which texts hardly differ as small as they are; dividing each by its own would raise noise.
    """
    items = np.concatenate([ballots.first, ballots.second])
    found: dict[str, np.ndarray] = {}
    for name, rows in (("items", items), ("prompts", ballots.prompts)):
        mean = rows.mean(0)
        size = float(((rows - mean) ** 2).sum(1).mean() ** 0.5)
        found |= {f"{name}.mean": mean, f"{name}.size": np.array([size if size > 1e-9 else 1.0])}
    return found


def _best(
    form: PALForm, train: Ballots, validation: Ballots, fitting: Ballots, users: int
) -> tuple[dict[str, np.ndarray], np.ndarray, float]:
    """Return the fit to ``fitting`` with the regularisation and the start of the lowest loss on ``validation``."""
    tried = []
    for l2 in L2_GRID:
        for start in range(STARTS if form.prototypes > 1 else 1):
            parameters, logits, _ = fit(form, train, users, l2, start)
            tried.append((mean_loss(form, parameters, logits, validation), l2, start))
    _, l2, start = min(tried)
    parameters, logits, _ = fit(form, fitting, users, l2, start)
    return parameters, logits, l2


def _right(found: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Return 1 where the margin has the sign of a vote, 0 where not, and 0.5 where it is 0; ties of people are left out."""
    told = signs != 0
    lead = found[told] * signs[told]
    return np.asarray((lead > 0) + 0.5 * (lead == 0))


def _new_users(
    form: PALForm,
    parameters: dict[str, np.ndarray],
    mean: np.ndarray,
    ballots: Ballots,
    part: np.ndarray,
    users: np.ndarray,
) -> dict[str, float]:
    """Return number of votes -> accuracy on new people's votes on held-out prompts, with weights from their first other votes."""
    curve = {}
    for count in CURVE:
        right = []
        for user in users:
            own = ballots.users == user
            told, asked = ballots[own & (part < 2)], ballots[own & (part == 2)]
            if len(told) < count or not len(asked):
                continue
            logits = fit_user(form, parameters, told[np.arange(count)], mean)
            alone = replace(asked, users=np.zeros(len(asked), dtype=np.int64))
            right.append(_right(margins(form, parameters, logits[None], alone), asked.signs))
        if right and len(votes := np.concatenate(right)):
            curve[str(count)] = float(votes.mean())
    return curve


def fit_prototypes(
    votes: Sequence[PersonVote],
    folder: str | Path,
    form: PALForm,
    encoder: str = encode.DEFAULT_ENCODER,
    seed: int = 0,
    device: str | None = None,
    dtype: str = "auto",
) -> Prototypes:
    """Fit prototypes to people's votes, write them to ``folder``, and return them.

    Raises:
        DataError: Too few votes, or votes of fewer than two people.
        ModelError: The encoder is not available, or ``folder`` holds anything but earlier prototypes.
    """
    began = time.perf_counter()
    refuse_foreign(Path(folder), FORM)
    people = list(by_user(votes))
    if len(people) < 2:
        raise DataError(
            f"votes of {len(people)} person: prototypes tell people apart, and need at least two; {CURE}"
        )
    source = encode.locate(encoder)
    identity = encode.content_fingerprint(source)
    rows = features_of(
        form,
        encode.load_encoder(source, device, dtype),
        [vote.prompt for vote in votes] * 2,
        [vote.first for vote in votes] + [vote.second for vote in votes],
        title="embedding",
    )
    users = np.array([people.index(vote.user) for vote in votes])
    ballots = ballots_of(form, rows, users, np.array([vote.sign for vote in votes]))
    learned = learn(form, ballots, [vote.prompt for vote in votes], seed)
    report = PrototypeReport(
        votes=len(votes),
        ties=sum(not vote.sign for vote in votes),
        users=len(people),
        prompts=len({vote.prompt for vote in votes}),
        seconds=round(time.perf_counter() - began, 2),
        **learned.figures,
    )
    weights = simplex(learned.logits)
    made = Prototypes(
        form,
        learned.parameters,
        tuple(f"prototype-{number + 1}" for number in range(form.prototypes)),
        {name: tuple(weights[number].tolist()) for number, name in enumerate(people)},
        encoder,
        identity,
        report,
    )
    made.save(folder)
    return made
