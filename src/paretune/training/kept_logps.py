"""Log-probabilities of responses under a frozen model, computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paretune.generation.generate import attached, response_logps
from paretune.models.adapter import Adapter
from paretune.models.distributed import ProcessGroup
from paretune.models.language_model import LanguageModel
from paretune.models.packing import TokenGroup
from paretune.scoring.cache import ScoreCache


def kept_logps(
    lm: LanguageModel,
    cache: ScoreCache,
    groups: Sequence[TokenGroup],
    keys: Sequence[Sequence[str]],
    adapter: Adapter | None,
    team: ProcessGroup,
) -> tuple[list[Tensor], int]:
    """Return for each group the log-probabilities of its responses (fp32, in nats, summed over tokens), and how many were computed.

    ``keys`` names each response in the cache. ``adapter`` None is the base model. A response that stands in several groups of one
    prompt is read once.
    """
    known = team.once(lambda: cache.get([key for row in keys for key in row]))
    # Kept when the pass has ended, not before: what is left after a kill would be packed, and so rounded, otherwise.
    todo = [
        (prompt, {key: r for key, r in zip(row, responses, strict=True) if key not in known})
        for (prompt, responses), row in zip(groups, keys, strict=True)
    ]
    todo = [(prompt, unknown) for prompt, unknown in todo if unknown]
    if todo:
        asked = [(prompt, list(unknown.values())) for prompt, unknown in todo]
        for (_, unknown), values in zip(todo, _computed(lm, asked, adapter, team), strict=True):
            known.update(zip(unknown, values.tolist(), strict=True))
        team.once(lambda: cache.put({key: known[key] for _, unknown in todo for key in unknown}))
    return [torch.tensor([known[key] for key in row]) for row in keys], sum(len(u) for _, u in todo)


def _computed(
    lm: LanguageModel, groups: Sequence[TokenGroup], adapter: Adapter | None, team: ProcessGroup
) -> list[Tensor]:
    if adapter is None:
        return response_logps(lm, groups, description="reference log-probabilities", team=team)
    gates, what = adapter.gates(), "margin log-probabilities"
    with attached(lm, adapter) as steering:
        return response_logps(lm, groups, steering, gates, description=what, team=team)
