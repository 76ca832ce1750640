"""Shares of pairs on which a score and a label agree, their interval, and how sure a reward is where it errs."""

from __future__ import annotations

import numpy as np

BINS = 10
"""Bins of the expected calibration error, of equal numbers of pairs."""


def agreement(gaps: np.ndarray) -> float:
    """Return the share of gaps above 0; a gap of 0 counts a half.

    >>> agreement(np.array([1.0, -2.0, 0.0, 3.0]))
    0.625
    """
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())


def wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the interval, by default at 95 %, of a share observed in ``count`` independent cases (Wilson 1927)."""
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # The interval contains the share itself; at 0 and 1, rounding could exclude it.
    return max(0.0, min(share, float(centre - half))), min(1.0, max(share, float(centre + half)))


def calibration_error(gaps: np.ndarray) -> float:
    """Return the mean of ``|confidence - share right|`` over bins of equal numbers of pairs, by confidence ``sigmoid(|gap|)``.

    >>> round(calibration_error(np.array([5.0, -5.0])), 3)
    0.493
    """
    confidence = 1 / (1 + np.exp(-np.abs(gaps)))
    right = (gaps > 0) + 0.5 * (gaps == 0)
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)] if len(gaps) >= 5 * BINS else [order]
    return float(
        sum(len(part) * abs(confidence[part].mean() - right[part].mean()) for part in parts) / len(gaps)
    )
