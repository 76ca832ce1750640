"""From preference data over several objectives to one language model that you steer along its measured Pareto front.

The public names, by subject. Each loads its module on first use, so that ``import paretune`` is quick and does not load torch.

- Data: :class:`Message`, :class:`Row` and :class:`ScoredDataset` hold preference data, :func:`load_data` reads them,
  :func:`build_scorer` makes a :class:`Scorer` of one objective.
- Policies: a :class:`Policy`, read by :func:`load_policy`, answers prompts at a :class:`Preference` under :class:`Sampling`.
- Fronts: :class:`Front` holds points, :func:`compare` says which of two is above and :func:`sentence` says it in words,
  :func:`holm` judges all comparisons of a report together, :func:`mixture` is the baseline between corners,
  :func:`hypervolume` is the volume of points and :func:`interval` that of a front with its uncertainty. :class:`FrontRecord`
  is what a run measured, :class:`Surface` the expected scores at every preference.
- Scores of any origin: :func:`read_scores` reads files and :func:`read_table` records or a data frame as a :class:`ScoreTable`,
  whose fronts :func:`judge_scores` judges. :func:`compare_runs` compares finished runs.
- Choosing: :class:`Dial` is a path along the front, :func:`choose` the best preference above minimum scores,
  :class:`Bounds` the preferences that a server accepts.
- Runs: :func:`load_config` reads a :class:`RunConfig`, :func:`run` trains, measures and reports; :data:`METHODS` has a
  :class:`Method` for each name.
- Errors: every error that a user can cause is a :class:`ParetuneError`.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # type checkers take it as true; importing it from typing would take most of the time of this import
if TYPE_CHECKING:
    from paretune.choosing.bounds import Bounds
    from paretune.choosing.dial import Dial
    from paretune.choosing.floors import choose
    from paretune.core.errors import ParetuneError
    from paretune.core.preference import Preference
    from paretune.core.sampling import Sampling
    from paretune.data.dataset import ScoredDataset
    from paretune.data.load import load_data
    from paretune.data.rows import Message, Row
    from paretune.data.score_files import read_scores
    from paretune.evaluation.from_scores import judge_scores
    from paretune.fronts.front import Front, mixture
    from paretune.fronts.indicators import hypervolume
    from paretune.fronts.inference import compare, holm, sentence
    from paretune.fronts.intervals import interval
    from paretune.fronts.record import FrontRecord
    from paretune.fronts.score_records import read_table
    from paretune.fronts.score_table import ScoreTable
    from paretune.fronts.surface import Surface
    from paretune.methods import METHODS
    from paretune.methods.base import Method
    from paretune.policies.policy import Policy
    from paretune.policies.saving import load_policy
    from paretune.runs.compare import compare_runs
    from paretune.runs.config import RunConfig
    from paretune.runs.parse import load_config
    from paretune.runs.run import run
    from paretune.scoring.scorer import Scorer, build_scorer

__version__ = "0.1.0"
__all__ = [
    "METHODS",
    "Bounds",
    "Dial",
    "Front",
    "FrontRecord",
    "Message",
    "Method",
    "ParetuneError",
    "Policy",
    "Preference",
    "Row",
    "RunConfig",
    "Sampling",
    "ScoreTable",
    "ScoredDataset",
    "Scorer",
    "Surface",
    "build_scorer",
    "choose",
    "compare",
    "compare_runs",
    "holm",
    "hypervolume",
    "interval",
    "judge_scores",
    "load_config",
    "load_data",
    "load_policy",
    "mixture",
    "read_scores",
    "read_table",
    "run",
    "sentence",
]

_HOMES = {
    "METHODS": "methods",
    "Bounds": "choosing.bounds",
    "Dial": "choosing.dial",
    "Front": "fronts.front",
    "FrontRecord": "fronts.record",
    "Message": "data.rows",
    "Method": "methods.base",
    "ParetuneError": "core.errors",
    "Policy": "policies.policy",
    "Preference": "core.preference",
    "Row": "data.rows",
    "RunConfig": "runs.config",
    "Sampling": "core.sampling",
    "ScoreTable": "fronts.score_table",
    "ScoredDataset": "data.dataset",
    "Scorer": "scoring.scorer",
    "Surface": "fronts.surface",
    "build_scorer": "scoring.scorer",
    "choose": "choosing.floors",
    "compare": "fronts.inference",
    "compare_runs": "runs.compare",
    "holm": "fronts.inference",
    "hypervolume": "fronts.indicators",
    "interval": "fronts.intervals",
    "judge_scores": "evaluation.from_scores",
    "load_config": "runs.parse",
    "load_data": "data.load",
    "load_policy": "policies.saving",
    "mixture": "fronts.front",
    "read_scores": "data.score_files",
    "read_table": "fronts.score_records",
    "run": "runs.run",
    "sentence": "fronts.inference",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'paretune' has no attribute {name!r}; it has {', '.join(__all__)}")
    value: object = getattr(importlib.import_module(f"paretune.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
