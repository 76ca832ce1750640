"""The model hub: the folder of its cache that a name means, the name that such a folder has, and what talks to it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.core.errors import ModelError
from paretune.models import hub_reach

if TYPE_CHECKING:
    from huggingface_hub import HfApi

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
_BESIDE_WEIGHTS = ("*.json", "*.jinja", "*.model", "*.txt")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubPlace:
    """A repository of the hub at one commit; both empty for a model that is not known to be on the hub."""

    name: str = ""
    commit: str = ""


NOWHERE = HubPlace()
"""The place of a model that is not known to be on the hub."""


def api() -> HfApi:
    """Return what talks to the hub; the token is that of ``HF_TOKEN`` or of ``hf auth login``."""
    from huggingface_hub import HfApi

    return HfApi(library_name="paretune")


def is_name(text: str) -> bool:
    """Return whether a text has the form of a hub name, ``owner/name``."""
    return _NAME.fullmatch(text) is not None and ".." not in text


def split_revision(text: str) -> tuple[str, str | None]:
    """Return the name and the revision of ``owner/name@revision``; None where no revision is stated."""
    name, sign, revision = text.partition("@")
    return name, revision if sign and revision else None


def reason_of(error: Exception) -> str:
    """Return why the hub gave nothing, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def snapshot(name: str, revision: str | None, expected: str) -> Path:
    """Return the folder in the hub's cache with a model's weights and all that is read beside them; what lacks is downloaded.

    Only the files that transformers would read are fetched: a repository may hold the same weights again in other formats.

    Args:
        name: The model's name on the hub.
        revision: A branch, a tag or a commit; None for the main branch.
        expected: What a message ends with: what could have been given.

    Raises:
        ModelError: Neither the hub nor its cache has the model at this revision, or it has no weights in safetensors files.
    """
    folder = fetched(name, revision, _BESIDE_WEIGHTS, expected)
    if not (folder / WHOLE).is_file():
        index = folder / INDEX
        parts = _parts(index) if index.is_file() else []
        folder = fetched(name, revision, parts or [WHOLE], expected)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"cannot load the model {name!r}: it has no weights in safetensors files on the hub, or they are not in the hub's "
            f"cache and the hub cannot be reached. {expected}"
        )
    return folder


def fetched(
    name: str,
    revision: str | None,
    patterns: Sequence[str],
    expected: str,
    what: str = "model",
    below: bool = False,
) -> Path:
    """Return the folder in the hub's cache that holds the files of a repository that match ``patterns``.

    Args:
        name: The repository's name on the hub.
        revision: A branch, a tag or a commit; None for the main branch.
        patterns: Patterns of the files that are wanted.
        expected: What a message ends with: what could have been given.
        what: What the repository holds, for messages.
        below: Whether files in folders are wanted too, and not those of the top level alone.

    Raises:
        ModelError: Neither the hub nor its cache has them.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    answers, _ = hub_reach.hub()  # its client would try for long before it looks into its cache
    try:
        place = api().snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(patterns),
            ignore_patterns=None if below else ["*/*"],
            local_files_only=not answers,
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        at = f" at the revision {revision}" if revision else ""
        raise ModelError(f"cannot load the {what} {name!r}{at}: {reason_of(error)}. {expected}") from error
    return Path(str(place))


def place_of(folder: Path) -> HubPlace:
    """Return the repository and the commit of a folder in the hub's cache; an empty place for any other folder."""
    repository, snapshots, commit = ("", "", "", *folder.absolute().parts)[-3:]
    if snapshots != "snapshots" or not repository.startswith("models--") or not _COMMIT.fullmatch(commit):
        return NOWHERE
    return HubPlace(repository.removeprefix("models--").replace("--", "/", 1), commit)


def other_commits(folder: Path) -> list[Path]:
    """Return the folders of the other commits of the same repository in the hub's cache."""
    if not place_of(folder).commit:
        return []
    return sorted(each for each in folder.absolute().parent.iterdir() if each.name != folder.name)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that a model is read from: the whole one, or those of the index, or all that there are."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    index = folder / INDEX
    parts = [folder / part for part in _parts(index)] if index.is_file() else []
    return parts if parts and all(part.is_file() for part in parts) else sorted(folder.glob("*.safetensors"))


def _parts(index: Path) -> list[str]:
    """Return the names of the files that an index names, sorted; none where it is damaged."""
    try:
        parts = json.loads(index.read_text(encoding="utf-8")).get("weight_map")
    except (OSError, ValueError, AttributeError, RecursionError):
        return []
    return sorted(set(map(str, parts.values()))) if isinstance(parts, dict) else []
