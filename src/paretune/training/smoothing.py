"""Labels that a model gave itself, smoothed where the present policy doubts them (SPA, arXiv 2406.04412)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paretune.core.bounds import Count, NotNegative, Share, check_bounds
from paretune.training.loop import TrainingRun


@dataclass(frozen=True)
class Smoothing:
    """How much the label of a pair counts, by the margin of the policy that is trained.

    Attributes:
        smooth: Weight a of the other label where a pair is doubted.
        doubtful: Share of the pairs that is doubted: those whose margin is at most this quantile of the last steps' margins.
        window: Number of steps before the present one whose margins are known.
        begin: Share of the steps after which labels are doubted at all.
        extrapolate: e of the margin, see :func:`extrapolated_margin`.
    """

    smooth: Share = 0.1
    doubtful: Share = 0.1
    window: Count = 50
    begin: Share = 0.2
    extrapolate: NotNegative = 1.0

    def __post_init__(self) -> None:
        check_bounds(self)


def extrapolated_margin(logps: Tensor, reference: Tensor, beta: float, extrapolate: float) -> Tensor:
    """Return ``beta ((1 + e) gap of the policy - e gap of the reference)`` ``[B]``, without gradient.

    A gap is the log-probability of chosen less that of rejected, in nats. It is the margin of the policy that goes on, beyond the
    present one, in the direction in which training has moved it from the reference; on whole responses.

    Args:
        logps, reference: ``[B, 2]`` sums over response tokens: chosen, rejected.
        beta: Strength of the KL penalty.
        extrapolate: e, at least 0.
    """
    policy, frozen = (values.detach()[:, 0] - values.detach()[:, 1] for values in (logps, reference))
    return beta * ((1 + extrapolate) * policy - extrapolate * frozen)


def threshold(margins: Sequence[float], share: float) -> float:
    """Return the ``share`` quantile of margins, interpolated linearly; minus infinity where there are none."""
    if not margins:
        return -torch.inf
    return float(torch.tensor(margins, dtype=torch.float64).quantile(share))


@dataclass(eq=False)
class Smoother:
    """The margins of the last steps, and what they make of the labels of the next.

    They are kept in the memory of the run, and so in its checkpoints.

    Attributes:
        settings: How labels are smoothed.
        run: The training run.
        beta: Strength of the KL penalty.
        doubted: Share of the pairs of the last forward whose labels were doubted.
    """

    settings: Smoothing
    run: TrainingRun
    beta: float
    doubted: float = 0.0

    def doubt(self, step: int, micro: int, logps: Tensor, reference: Tensor) -> Tensor:
        """Return the weight ``[B]`` of the other label for the pairs of a forward, and note their margins.

        Args:
            step, micro: Number of the optimiser step and of the forward in it, from 0.
            logps, reference: ``[B, 2]``: chosen, rejected.
        """
        settings, share = self.settings, self.run.share()
        margins = extrapolated_margin(logps, reference, self.beta, settings.extrapolate)
        kept = {
            name: own for name, own in self.run.memory.items() if step - settings.window <= int(name) < step
        }
        present = (
            [] if micro == share.forwards(self.run.settings.accumulate)[0] else self.run.memory[str(step)]
        )
        known = [margin for own in kept.values() for margin in own]
        together = [margin for part in share.team.gather(margins.tolist()) for margin in part]
        self.run.memory.clear()
        self.run.memory.update(kept | {str(step): [*present, *together]})
        begun = step >= settings.begin * self.run.settings.steps
        doubted = (margins <= (threshold(known, settings.doubtful) if begun else -torch.inf)).to(
            margins.dtype
        )
        self.doubted = float(doubted.mean())
        return settings.smooth * doubted
