"""Policies on the model hub: pushed with a card and the front's figures, pulled, and found by name. Nothing here loads torch."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from paretune.core.errors import ConfigError, ModelError, ParetuneError
from paretune.core.files import atomic_path, expanded, write_json
from paretune.core.folder_form import refuse_foreign
from paretune.fronts.record import FILE as FRONT
from paretune.fronts.record import FrontRecord, Point
from paretune.models.hub import api, fetched, is_name, reason_of, split_revision
from paretune.models.hub_reach import hub
from paretune.policies.policy_file import FILE, PolicyFile
from paretune.reports.card import About, write_card, write_card_of_policy
from paretune.reports.picture import write_picture

RUN = "versions.json"
"""The file that tells the folder of a run from others."""
CARD, PICTURE = "README.md", "front.png"
ADAPTERS = ("adapter-*/adapter.json", "adapter-*/adapter.safetensors")
FILES = (FILE, CARD, FRONT, PICTURE, *ADAPTERS)
"""All files that a repository of a policy holds."""

_EXPECTED = (
    "Expected the folder of a policy, such as RUN/policies/modpo, or a repository of the hub, owner/name"
)
_PLACE = re.compile(r"(?<![\w:/.])(?:~?/|[A-Za-z]:\\)(?:[^\s,;:'\"]*[/\\])?([^\s,;:'\"/\\]+)")
"""An absolute path in a text; what it is called there is its last part."""


def policy_folder(folder_or_repository: str | Path) -> Path:
    """Return the folder of a policy, which is fetched where a repository of the hub is named.

    Args:
        folder_or_repository: A folder, which comes first, or ``owner/name`` or ``owner/name@revision``.

    Raises:
        ModelError: There is no such folder, and no such repository can be reached.
    """
    folder = expanded(folder_or_repository, "policy")
    name, revision = split_revision(str(folder_or_repository))
    if folder.exists() or not is_name(name):
        return folder
    return _fetched(name, revision)


def _fetched(name: str, revision: str | None) -> Path:
    """Return the folder in the hub's cache with a policy; the hub is asked only where it answers, as its client tries for long."""
    from huggingface_hub import try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(name, FILE, revision=revision), str):
        answers, finding = hub()
        if not answers:
            raise ModelError(
                f"{name}: no such folder, and the hub cannot be asked for it ({finding}). {_EXPECTED}"
            )
    return fetched(name, revision, FILES, _EXPECTED, "policy", below=True)


def pull(repository: str, folder: Path, revision: str | None = None) -> PolicyFile:
    """Copy a policy from the hub into a new folder, and return what its ``policy.json`` says.

    Args:
        repository: The repository's name, ``owner/name`` or ``owner/name@revision``.
        folder: A new or empty folder.
        revision: A branch, a tag or a commit of the repository; by default its main branch.

    Raises:
        ConfigError: ``repository`` is no name of the hub.
        ModelError: ``folder`` holds files, the repository cannot be reached, or it holds no policy.
    """
    name, stated = split_revision(repository)
    check_repository(name)
    refuse_foreign(folder, None)
    source = _fetched(name, revision or stated)
    facts = PolicyFile.read(source)
    with atomic_path(folder) as temporary:
        for file in _files(source, facts):
            (temporary / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, temporary / file)
    return facts


def push(
    source: Path,
    repository: str,
    about: About,
    base: str | None = None,
    public: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> str:
    """Send a policy to the hub, and return its address there.

    What is sent is the policy's two kinds of files, a model card, and where the run has measured the policy the figures of its
    front and their picture: no prompt, no answer, no other file, and no path of this machine.

    Args:
        source: The policy's folder.
        repository: The name on the hub, ``owner/name``; it is made where there is none.
        about: Facts for the card that the run does not know: licence, languages, data sets.
        base: The base model's name on the hub, where the policy does not know it.
        public: Whether a new repository is one that everybody sees.
        revision: The branch to write, which is made where there is none; by default the main branch.
        message: The message of the commit.

    Raises:
        ConfigError: ``repository`` is no name of the hub, or the base model's name there is not known.
        ModelError: ``source`` holds no policy.
        ParetuneError: The hub refuses.
    """
    check_repository(repository)
    facts = PolicyFile.read(source)
    facts = _portable(facts, source, base)
    about = replace(
        about,
        base_model=facts.hub,
        policy=facts.name,
        place=repository,
        chat_template=facts.chat_template,
    )
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "policy"
        _write(source, facts, about, folder)
        return send(folder, repository, public, revision, message or f"{facts.name}: a paretune policy")


def send(
    folder: Path,
    repository: str,
    public: bool,
    revision: str | None,
    message: str,
    kind: str = "model",
    replaced: Sequence[str] = (FRONT, PICTURE, *ADAPTERS),
) -> str:
    """Send a folder to the hub, and return its address there.

    Args:
        folder: What is sent.
        repository: The name on the hub, ``owner/name``; it is made where there is none.
        public: Whether a new repository is one that everybody sees.
        revision: The branch to write, which is made where there is none; None for the main branch.
        message: The message of the commit.
        kind: ``model`` or ``dataset``.
        replaced: Patterns of files that an earlier commit had and this one may not have.

    Raises:
        ConfigError: ``repository`` is no name of the hub.
        ParetuneError: The hub refuses.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    check_repository(repository)
    client = api()
    try:
        made = client.create_repo(repository, private=not public, exist_ok=True, repo_type=kind)
        if revision:
            client.create_branch(repository, branch=revision, exist_ok=True, repo_type=kind)
        client.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            delete_patterns=list(replaced),
            repo_type=kind,
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise ParetuneError(
            f"{repository}: the hub did not take it ({reason_of(error)}); a token with the right to write is read from HF_TOKEN, "
            "or from what `hf auth login` kept"
        ) from error
    return str(made)


def check_repository(repository: str) -> None:
    """Raise a ConfigError unless this can be the name of a repository on the hub."""
    if not is_name(repository):
        raise ConfigError(f"{repository!r:.80}: expected the name of a repository on the hub, owner/name")


def _portable(facts: PolicyFile, source: Path, base: str | None) -> PolicyFile:
    """Return the facts with the base model's name on the hub in place of what it is called here."""
    if base is not None:
        check_repository(base)
    named = base or facts.named_base.hub_name
    if not is_name(named) or (named == facts.model and not facts.hub and Path(named).exists()):
        raise ConfigError(
            f"{source}: its base model is the folder {facts.model}, which nobody else has; give the same model's name on the hub "
            "with --base owner/name"
        )
    revision = facts.revision if named == facts.hub else ""
    embedded = facts.model if facts.named_base.is_embedded and base is None else named
    return facts.model_copy(update={"model": embedded, "hub": named, "revision": revision})


def _write(source: Path, facts: PolicyFile, about: About, folder: Path) -> None:
    folder.mkdir()
    for file in _files(source, facts):
        if file.parent.name:
            (folder / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / file, folder / file)
    write_json(folder / FILE, facts.model_dump(mode="json"))
    front = front_of(source)
    record = FrontRecord.read(front) if front else None
    about = _completed(about, front.parent / CARD) if front else about
    if record is None or all(policy.name != facts.name for policy in record.policies):
        write_card_of_policy(facts.name, facts.objectives, folder / CARD, about)
        return
    record = figures_only(record, facts.name, facts.hub)
    record.write(folder / FRONT)
    write_picture(record, folder / PICTURE)
    write_card(record, folder / CARD, about)


def _completed(about: About, card: Path) -> About:
    """Return the facts with the data sets and the languages that the card of the run states, where none are given."""
    from huggingface_hub import ModelCard

    if not card.is_file():
        return about
    head = ModelCard.load(card, ignore_metadata_errors=True).data
    return replace(
        about,
        datasets=about.datasets or _listed(head.get("datasets")),
        languages=about.languages or _listed(head.get("language")),
    )


def _listed(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else (value,) if isinstance(value, str) else ()


def _files(source: Path, facts: PolicyFile) -> list[Path]:
    """Return the paths of the policy's own files, and of those that :func:`push` adds where they are there."""
    adapters = [Path(f"adapter-{n}") / Path(name).name for n in range(facts.adapters) for name in ADAPTERS]
    missing = [file for file in adapters if not (source / file).is_file()]
    if missing:
        raise ModelError(
            f"{source}: {missing[0]} is missing, of a policy of {facts.adapters} adapters; copy it again"
        )
    return [
        *adapters,
        Path(FILE),
        *(Path(name) for name in (CARD, FRONT, PICTURE) if (source / name).is_file()),
    ]


def front_of(policy: Path) -> Path | None:
    """Return the record of the front of a policy's run, which lies beside ``policy.json`` where it was pulled; None without."""
    for folder in (policy, policy.parent.parent):
        if (folder / FRONT).is_file():
            return folder / FRONT
    return None


def due_front(policy: Path) -> Path | None:
    """Return the record of the front of a policy's run as :func:`front_of`, also where a run has lost it; None outside a run."""
    run = policy.parent.parent
    return front_of(policy) or (run / FRONT if (run / RUN).is_file() else None)


def figures_only(record: FrontRecord, name: str, base_model: str) -> FrontRecord:
    """Return the record of one policy without any text of the data: no prompts, no answers, no notes, and no paths.

    Args:
        record: The record of a run.
        name: The policy.
        base_model: The base model's name on the hub.
    """
    kept = {name, "base", "mixture of corners"}
    silent: dict[str, Any] = {"responses": (), "response_scores": ()}

    def quiet(points: Sequence[Point]) -> tuple[Point, ...]:
        return tuple(point.model_copy(update=silent) for point in points)

    policy = record.policy(name)
    policy = policy.model_copy(
        update={"points": quiet(policy.points), "extrapolations": quiet(policy.extrapolations)}
    )
    return record.model_copy(
        update={
            "model": base_model,
            "prompts": (),
            "base": record.base.model_copy(update=silent),
            "policies": (policy,),
            "comparisons": tuple(test for test in record.comparisons if {test.first, test.second} <= kept),
            "uncompared": tuple(pair for pair in record.uncompared if {pair.first, pair.second} <= kept),
            "cautions": tuple(map(without_places, record.cautions)),
            "objectives_info": {key: without_places(text) for key, text in record.objectives_info.items()},
            "data": record.data and record.data.model_copy(update={"notes": ()}),
            "stages": (),
        }
    )


def without_places(text: str) -> str:
    """Return a text in which an absolute path is its last part alone.

    >>> without_places("model /home/anna/rewards/warm, index 1")
    'model warm, index 1'
    >>> without_places("see https://example.org/a/b")
    'see https://example.org/a/b'
    """
    return _PLACE.sub(r"\1", text)
