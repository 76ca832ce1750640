"""Rewards of sampled responses. Scorers run under a time limit, and an error names function and prompt."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from paretune.data.rows import Prompt
from paretune.scoring.cache import ScoreCache
from paretune.scoring.scorer import Scorer, score_texts
from paretune.training.loop import BatchError

SHOWN = 60
"""Characters of a prompt that a message shows."""


def rate(
    scorers: Sequence[Scorer],
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    truncated: Sequence[bool],
    cache: ScoreCache | None = None,
    limit: float = 0.0,
) -> np.ndarray:
    """Return the raw scores ``[n, M]`` (float64) of n responses by M scorers.

    Args:
        scorers: One per objective.
        prompts, responses, truncated: Prompt, response and cut mark of each row.
        cache: Keeps scores, so that a resumed run does not compute them again.
        limit: Seconds that one scorer may take for all rows; 0 is no limit.

    Raises:
        BatchError: A scorer raised, took longer, or returned NaN or another number of values; names it and the prompt.
    """
    columns = [_rated(scorer, prompts, responses, truncated, cache, limit) for scorer in scorers]
    return np.stack(columns, axis=1)


def _rated(
    scorer: Scorer,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    truncated: Sequence[bool],
    cache: ScoreCache | None,
    limit: float,
) -> np.ndarray:
    def score(rows: Sequence[int]) -> np.ndarray:
        return score_texts(
            scorer,
            [prompts[row] for row in rows],
            [responses[row] for row in rows],
            [truncated[row] for row in rows],
            cache,
        )

    try:
        return _within(limit, lambda: score(range(len(responses))))
    except Exception as error:
        row, reason = _culprit(score, len(responses), limit)
        shown = prompts[row or 0][-1].content[:SHOWN]
        where = f"{len(responses)} responses together, and on none alone; the first prompt is {shown!r}"
        if row is not None:
            where = f"response {responses[row][:SHOWN]!r} to the prompt {shown!r}"
        raise BatchError(
            f"the reward function of {scorer.objective!r} failed on {where}: {_reason(reason or error)}. What was trained so far "
            "is saved; correct the function and run the same command again"
        ) from error


def _reason(error: Exception) -> str:
    """Return the reason without its end stop; an exception of the function's own is named by its class."""
    text = str(error).rstrip(".")
    return (
        text if isinstance(error, (ValueError, TimeoutError)) and text else f"{type(error).__name__}: {text}"
    )


def _culprit(
    score: Callable[[Sequence[int]], np.ndarray], count: int, limit: float
) -> tuple[int | None, Exception | None]:
    """Return the first row that fails by itself, and how; None where none does."""
    at = 0

    def one_by_one() -> None:
        nonlocal at
        for at in range(count):
            score([at])

    try:
        _within(limit, one_by_one)
    except Exception as error:  # noqa: BLE001 - a reward function is anybody's code
        return at, error
    return None, None


def _within(limit: float, work: Callable[[], Any]) -> Any:
    """Return ``work()``, run in a thread of its own so that one that hangs can be left behind.

    Raises:
        TimeoutError: After ``limit`` seconds (0: never), naming the function and line that it stands at.
    """
    done: list[Any] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:  # noqa: BLE001 - handed over
            failed.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit or None)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError(f"no answer within {limit:g} seconds{_place(thread)}")
    return done[0]


def _place(thread: Thread) -> str:
    """Return in words the file, line and name of the first function outside this package that ``thread`` is in, if any."""
    frame = sys._current_frames().get(thread.ident or 0)
    here = str(Path(__file__).parents[2])
    inner: traceback.FrameSummary | None = None
    for entry in reversed(traceback.extract_stack(frame) if frame else []):
        if entry.filename.startswith(here):
            break
        inner = entry
    return f"; it stands at {inner.filename}:{inner.lineno} ({inner.name})" if inner else ""
