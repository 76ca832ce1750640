"""The Bradley-Terry heads that a run fits (``head: fit``): what they need, and the fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paretune.core.errors import ModelError
from paretune.core.files import fingerprint
from paretune.data.dataset import ScoredDataset, concatenate
from paretune.models.hub_reach import check_hub
from paretune.runs.config import RunConfig
from paretune.scoring import encoder
from paretune.training.lab import Lab


def fitted_head(
    spec: Mapping[str, Any], config: RunConfig, lab: Lab, splits: dict[str, ScoredDataset]
) -> Path:
    """Return the folder of the head of an entry of ``score``, fitted on the training labels of its objective."""
    from paretune.scoring.bradley_terry import fit_head

    objective, dtype = str(spec.get("objective")), str(spec.get("dtype", "auto"))
    labelled, seed = concatenate([splits["train"], splits["validation"]]), fit_seed(config)

    def make(folder: Path) -> None:
        result = fit_head(
            labelled,
            objective,
            folder / "head",
            seed=seed,
            device=spec.get("device") or config.device,
            dtype=dtype,
        )
        lab.say(f"Bradley-Terry head for {objective}: {result}")

    key = fingerprint(labelled.fingerprint, objective, seed, *([] if dtype == "auto" else [dtype]))
    return lab.stage(f"heads/{objective}", key, make) / "head"


def fit_seed(config: RunConfig) -> int:
    """Return the seed by which the data of a fit are split once more: by the run's own, a part of the parts would be empty."""
    return config.seed + 1


def check_fit(config: RunConfig, splits: dict[str, ScoredDataset]) -> None:
    """Raise a DataError where the labels are too few for a head that is to be fitted; those of a judge are not there yet."""
    from paretune.scoring.bradley_terry import parts_of

    labelled = concatenate([splits["train"], splits["validation"]])
    judged = [str(spec["objective"]) for spec in config.score if "labels" in spec]
    for objective in _fitted(config):
        if objective not in judged or speaks(labelled, objective):
            parts_of(labelled, objective, None, fit_seed(config))


def check_encoder(config: RunConfig) -> None:
    """Raise a ModelError where a head is to be fitted, and what reads its texts can be had neither here nor from the hub."""
    fitted = _fitted(config)
    if not fitted or encoder.is_at_hand():
        return
    try:
        check_hub(encoder.DEFAULT_HUB_NAME)
    except ModelError as error:
        raise ModelError(
            f"score: head: fit ({', '.join(fitted)}) reads texts by a small encoder that is not on this machine, and the hub "
            f"cannot be asked for it: {encoder.INSTALL}"
        ) from error


def _fitted(config: RunConfig) -> list[str]:
    return [str(spec["objective"]) for spec in config.score if spec.get("head") == "fit"]


def speaks(dataset: ScoredDataset, objective: str) -> bool:
    """Return whether the data hold labels or scores on ``objective``."""
    return any(objective in row.labels or objective in row.scores for row in dataset.rows)
