"""What a run asked of judges and scoring servers: kept in its folder, so that restarts add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from paretune.core.files import read_json, write_json
from paretune.scoring.function_scorer import FunctionScorer
from paretune.scoring.scorer import Scorer
from paretune.scoring.usage import Usage, in_words

FILE = "usage.json"
"""The file in ``scores/``: fingerprint of a scorer -> its counts."""


def keep_usage(folder: Path, scorers: Sequence[Scorer | None]) -> dict[str, Usage]:
    """Add what scorers have asked since the last call to the counts in a run folder; return objective -> all counts.

    Scorers that ask nobody are left out. What a killed process asked and did not add counts as read from the cache later.
    """
    asking = [s for s in scorers if isinstance(s, FunctionScorer) and s.judge]
    if not asking:
        return {}
    file = folder / "scores" / FILE
    known = read_json(file, dict[str, dict[str, int]]) if file.is_file() else {}
    found, new = {}, False
    for scorer in asking:
        more = scorer.usage.take()
        total = Usage(**known.get(scorer.fingerprint, {})).plus(more)
        known[scorer.fingerprint] = asdict(total)
        found[scorer.objective] = total
        new = new or bool(more)
    if new:
        write_json(file, known)
    return found


def usage_lines(scorers: Sequence[Scorer | None], used: Mapping[str, Usage]) -> list[str]:
    """Return a sentence for each scorer that asked: whom, how much, and what it cost."""
    return [
        f"{scorer.objective}: judged by {scorer.judge}: {in_words(used[scorer.objective], scorer.prices)}"
        for scorer in scorers
        if isinstance(scorer, FunctionScorer) and used.get(scorer.objective)
    ]
