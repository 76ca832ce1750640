"""The base model that a saved policy asks for, and where it is on this machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from paretune.core.errors import ModelError
from paretune.core.files import expanded
from paretune.models.embedded import EMBEDDED
from paretune.models.hub import is_name
from paretune.models.language_model import LanguageModel, load
from paretune.policies.policy_file import NamedBase

CURE = "give the place of the same weights with model= (--model FOLDER_OR_HUB_NAME)"


def load_base(
    named: NamedBase,
    where: Path,
    dtype: str,
    device: str | None = None,
    model: str | None = None,
    revision: str | None = None,
    quantization: str = "auto",
) -> LanguageModel:
    """Load the base model that a file names, from where it is on this machine.

    Args:
        named: The base model as the file names it.
        where: The file's folder, for messages.
        dtype: The number format.
        device: The device; by default an accelerator where there is one.
        model: Another name or folder of the same weights, in place of the named one.
        revision: The branch, tag or commit on the hub; by default the one that was trained on, else the main branch.
        quantization: How the matrices are held, see :func:`paretune.models.language_model.load`.

    Raises:
        ModelError: It cannot be loaded. Where it is not on this machine and not on the hub, the message says how to name it.
    """
    if model is not None:
        return load(model, dtype, device, revision, quantization, chat_template=named.chat_template)
    local = named.model == EMBEDDED or expanded(named.model, "model").exists()
    if local and not revision:
        return load(named.model, dtype, device, None, quantization, chat_template=named.chat_template)
    name = named.hub or named.model
    if not is_name(name):
        raise ModelError(
            f"{where}: its base model {named.model} is not on this machine, and its name on the hub is not known; {CURE}"
            if not local
            else f"{where}: revision {revision!r}: its base model {named.model} is a folder here; leave revision out, or {CURE}"
        )
    asked = [revision] if revision else [named.revision or None, None]
    loading = partial(load, name, dtype, device, quantization=quantization, chat_template=named.chat_template)
    missing = _load_first(loading, dict.fromkeys(asked))
    if isinstance(missing, LanguageModel):
        return missing
    other = f"{named.model} is not on this machine, and on the hub: " if name != named.model else ""
    raise ModelError(f"{where}: its base model cannot be loaded: {other}{missing}; {CURE}") from missing


def _load_first(
    loading: Callable[..., LanguageModel], revisions: dict[str | None, Any]
) -> LanguageModel | ModelError:
    """Return the model of the hub at the first of some revisions that can be had, or why the first cannot."""
    first: ModelError | None = None
    for revision in revisions:
        try:
            return loading(revision=revision)
        except ModelError as error:
            first = first or error
    assert first is not None
    return first


def check_weights(where: Path, base: str, weights: str, named: NamedBase, lm: LanguageModel) -> bool:
    """Return whether a file was made for this very base model; False where its tokenizer, template or quantisation is another.

    Args:
        where: The file's folder, for messages.
        base: The fingerprint of the base model that it was made for.
        weights: The identity of that model's weights; empty in files of paretune 0.1.
        named: The base model as the file names it.
        lm: The model that is loaded.

    Raises:
        ModelError: The model has other weights; the message names both.
    """
    if base in lm.fingerprints:
        return True
    if weights and weights in (lm.origin.weights, *lm.origin.earlier):
        return False
    known = f", {named.hub}" if named.hub and named.hub != named.model else ""
    at = f" at the commit {named.revision}" if named.revision else ""
    place = lm.origin.hub.commit
    raise ModelError(
        f"{where}: made for the base model {named.model}{known}{at} (weights {weights or base}), but {lm.name}"
        f"{f' at the commit {place}' if place else ''} has other weights ({lm.origin.weights or lm.fingerprint}); "
        + (
            CURE
            if weights
            else f"{CURE}, or the commit of the hub that it was trained on with revision= (--revision)"
        )
    )
