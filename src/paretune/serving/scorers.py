"""The scorers of a run, for single answers: what the front's expected scores are means of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.errors import ParetuneError
from paretune.data.rows import Prompt

if TYPE_CHECKING:
    from paretune.scoring.scorer import Scorer

LEFT_OUT = {
    "function": "its scorer is a Python function, and a server runs no code that a run's folder names",
    "implicit": "its scorer needs a second copy of the base model",
    "reward": "its reward model needs a copy of its base model",
    "endpoint": "its scorer sends texts to another server, and what people write here stays here",
    "judge": "its scorer is a judge, which sends texts to another server or needs a second language model",
}
"""Kind of scorer -> why a server does not use it."""


class Scorers:
    """Scorers by objective. A model of a scorer is loaded when the first answer is scored.

    Attributes:
        missing: Objective -> why it is not scored, for scorers that a server does not use.
    """

    def __init__(
        self, specs: Sequence[Mapping[str, Any]] = (), folder: Path | None = None, device: str | None = None
    ) -> None:
        """Keep the entries of a config's section ``score``.

        Args:
            specs: The entries.
            folder: Folder of the run, which holds the heads that it fitted.
            device: Torch device of their models, where an entry states none.
        """
        self.missing: dict[str, str] = {}
        self._built: dict[str, Scorer] = {}
        self._makers: dict[str, Callable[[], Scorer]] = {}
        self._lock = threading.Lock()
        for spec in specs:
            objective = str(spec.get("objective"))
            refused = [reason for kind, reason in LEFT_OUT.items() if kind in spec]
            if refused:
                self.missing[objective] = refused[0]
            else:
                self._makers[objective] = partial(_build, spec, folder or Path(), device)

    def objectives(self, wanted: Sequence[str]) -> list[str]:
        """Return those objectives that have a scorer; whether its model loads is not known before it scores."""
        return [name for name in wanted if name in self._makers]

    def scores(
        self, wanted: Sequence[str], prompt: Prompt, texts: Sequence[str], truncated: Sequence[bool]
    ) -> tuple[list[dict[str, float]], dict[str, str]]:
        """Return the scores of each text, objective -> score, and why the other objectives have none.

        It blocks while models are loaded, and scores one request at a time.
        """
        scores: list[dict[str, float]] = [{} for _ in texts]
        missing: dict[str, str] = {}
        with self._lock:
            for name in wanted:
                if name not in self._makers:
                    missing[name] = self.missing.get(name, "the run has no scorer for it")
                    continue
                try:
                    if name not in self._built:
                        self._built[name] = self._makers[name]()
                    values = self._built[name]([prompt] * len(texts), list(texts), list(truncated))
                except ParetuneError as error:
                    missing[name] = str(error)[:500]
                    continue
                for mine, value in zip(scores, values.tolist(), strict=True):
                    mine[name] = value
        return scores, missing


def _build(spec: Mapping[str, Any], folder: Path, device: str | None) -> Scorer:
    from paretune.scoring.scorer import build_scorer

    if spec.get("head") == "fit":
        spec = {**spec, "head": str(folder / "heads" / str(spec["objective"]) / "head")}
    return build_scorer(spec, device)
