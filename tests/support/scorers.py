"""Scorers of the small world."""

from __future__ import annotations

from collections.abc import Sequence

from paretune.data.rows import Prompt
from paretune.scoring.function_scorer import FunctionScorer, from_function

OBJECTIVES = ("short", "good")


def scorer(objective: str, sign: float = 1.0) -> FunctionScorer:
    """Return the rule by which ``make_dataset`` scores, times ``sign``."""

    def rate(prompts: Sequence[Prompt], texts: Sequence[str], cut: Sequence[bool]) -> list[float]:
        assert not any("  <rm1_score> " in message.content for prompt in prompts for message in prompt)
        words = [text.split() for text in texts]
        if objective == "short":
            return [-sign * len(w) for w in words]
        return [sign * (w.count("good") + 0.1 * len(w)) for w in words]

    return from_function(objective, f"{objective} {sign}", rate)


SCORERS = [scorer(name) for name in OBJECTIVES]
