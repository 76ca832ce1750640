"""The folder of a run while a process works in it: whose it is, who works there, and what killed processes left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paretune.core.errors import ConfigError, ParetuneError
from paretune.core.files import read_json
from paretune.core.launch import rank
from paretune.core.run_lock import working_in
from paretune.core.swap import sweep
from paretune.core.work_log import WorkLog
from paretune.fronts.record import FILE
from paretune.policies.policy_file import PolicyFile
from paretune.policies.saving import refuse_strange
from paretune.runs.config import RunConfig
from paretune.runs.names import check_names

VERSIONS = "versions.json"
"""The first file of a run, by which its folder is known."""

BASE = "base"
"""The key of that file with the fingerprint of the base model by which the run's stages are found."""

UNNAMED = ""
"""Stands for the fingerprint that an earlier version gave the base model, where no adapter states it."""

OVERWRITTEN = (
    "config.yaml", "front.json", "front.png", "README.md", "report.html", "scores.jsonl", "stages.json", "sweep.json"
)  # fmt: skip
"""Files that a run writes under names which a folder of somebody else may hold too."""

CHECKPOINTING = "gradient_checkpointing"
"""The key of that file with what was chosen where ``train.gradient_checkpointing`` is ``auto``."""

_DEEPEST = 3
"""Levels below the run folder in which stages write."""


@contextmanager
def at_work(config: RunConfig, shared: bool = False) -> Iterator[None]:
    """Work in the run's folder inside the context, alone or (``shared``) together with the other workers of a sweep.

    What killed processes of this product left in it is removed first. Of several processes of a run the first does this.

    Raises:
        ConfigError: A name in the config cannot be that of a folder, or the folder holds files of somebody else that the run
            would overwrite.
        ModelError: The folder of one of its policies holds other files.
        ParetuneError: Another process works there.
    """
    if rank():
        yield
        return
    check_names(config)
    folder = config.run_folder
    refuse_other(folder)
    for name in config.methods:
        refuse_strange(folder / "policies" / name)
    with working_in(folder, shared):
        sweep(folder, _DEEPEST)
        yield


def refuse_other_run(config: RunConfig, objectives: Sequence[str]) -> None:
    """Raise a ConfigError where the folder holds a run over other objectives, whose policies would be served beside the new ones.

    A run with one objective more, or less, goes on in its folder, where every policy there is is made anew.
    """
    folder, wanted = config.run_folder, set(objectives)
    held: dict[str, set[str]] = {}
    with suppress(ParetuneError):
        held["its front"] = set(map(str, read_json(folder / FILE, dict[str, Any]).get("objectives", ())))
    for file in sorted(folder.glob("policies/*/policy.json")):
        with suppress(ParetuneError):
            held[f"its policy {file.parent.name}"] = set(PolicyFile.read(file.parent).objectives)
    for what, names in held.items():
        stays = what.startswith("its policy") and what.removeprefix("its policy ") not in config.methods
        nested = names <= wanted or wanted <= names
        if names and (names != wanted if stays else not nested):
            raise ConfigError(
                f"{folder}: holds another run ({what} is over {', '.join(sorted(names))}), and this config is over "
                f"{', '.join(sorted(wanted))}; give it a folder of its own (folder=PATH, or another name), or delete that folder"
            )


@contextmanager
def told(config: RunConfig) -> Iterator[WorkLog | None]:
    """Say inside the context how far the run is, and keep that in its folder; None in all processes of a run but the first."""
    if rank():
        yield None
        return
    log = WorkLog(config.name, config.run_folder)
    with log.working():
        yield log


def refuse_other(folder: Path) -> None:
    """Raise a ConfigError where ``folder`` is no run's, and holds a file that a run would overwrite."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; give the run a folder (folder=PATH)")
    with suppress(ParetuneError):
        if "paretune" in read_json(folder / VERSIONS, dict[str, object]):
            return
    theirs = [name for name in OVERWRITTEN if (folder / name).exists()]
    if theirs:
        raise ConfigError(
            f"{folder}: holds {', '.join(theirs)}, and is no run's folder (no {VERSIONS} of a run in it); the run would overwrite "
            "that. Give the run a new folder (folder=PATH), or move these files away"
        )


def choices_before(folder: Path) -> dict[str, Any]:
    """Return what a run has chosen so far where its config says ``auto``, as its :data:`VERSIONS` has it."""
    with suppress(ParetuneError):
        stated = read_json(folder / VERSIONS, dict[str, Any])
        return {CHECKPOINTING: stated[CHECKPOINTING]} if CHECKPOINTING in stated else {}
    return {}


def bases_before(folder: Path) -> list[str]:
    """Return the fingerprints of the base model that a run may have gone by so far, the likeliest first; none for a new run.

    The run states it in its :data:`VERSIONS`. In a run of version 0.1 the adapters state it, and :data:`UNNAMED` comes last.
    """
    with suppress(ParetuneError):
        stated = read_json(folder / VERSIONS, dict[str, object]).get(BASE)
        if isinstance(stated, str) and stated:
            return [stated]
    if next(folder.glob("*/*/stage.json"), None) is None and next(folder.glob("*/stage.json"), None) is None:
        return []
    bases: list[str] = []
    for file in sorted(folder.glob("adapters/*/adapter/adapter.json")):
        with suppress(ParetuneError):
            bases.append(str(read_json(file, dict[str, object]).get("base")))
    return [*dict.fromkeys(bases), UNNAMED]
