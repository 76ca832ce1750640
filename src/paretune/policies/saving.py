"""Policies on the disk: ``policy.json`` and one folder per adapter."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from paretune.core.errors import ModelError, ParetuneError
from paretune.core.files import atomic_path, write_json
from paretune.core.folder_form import FolderForm, refuse_foreign
from paretune.core.settings import parse
from paretune.generation.mixing import Mixing
from paretune.generation.rescoring import Augmentation
from paretune.models.adapter import FILES, Adapter
from paretune.models.language_model import LanguageModel
from paretune.models.values import FILES as VALUE_FILES
from paretune.models.values import Values, hidden_size
from paretune.policies.base_model import check_weights, load_base
from paretune.policies.mixed import MixedPolicy
from paretune.policies.policy import Policy, trained_preferences
from paretune.policies.policy_file import FILE, PolicyFile, loaded_as
from paretune.policies.principled import PrincipledPolicy
from paretune.policies.principles import Guidance, Principles
from paretune.policies.shared import policy_folder
from paretune.policies.valued import ValuedPolicy

T = TypeVar("T")

logger = logging.getLogger(__name__)

VALUES = "values"
"""The folder of the value heads of a policy that has some."""

FORM = FolderForm(
    FILE,
    ("name", "base", "objectives", "mix"),
    (*(f"adapter-[0-9]*/{name}" for name in FILES), *(f"{VALUES}/{name}" for name in VALUE_FILES)),
    needs_marker=False,
)
"""The form of the folder of a policy."""


def save(policy: Policy, folder: str | Path) -> None:
    """Write ``policy.json`` and one folder per adapter into ``folder``, atomically; the same policy there is left alone.

    Raises:
        ModelError: ``folder`` holds anything but an earlier policy.
    """
    base = policy.lm.fingerprints[0]
    with atomic_path(folder, FORM, keep_equal=True) as temporary:
        temporary.mkdir()
        for number, adapter in enumerate(policy.adapters):
            replace(adapter, base=base).save(temporary / f"adapter-{number}")
        if isinstance(policy, ValuedPolicy):
            replace(policy.values, base=base).save(temporary / VALUES)
        write_json(temporary / FILE, content(policy))


def content(policy: Policy) -> dict[str, Any]:
    """Return the content of ``policy.json``."""
    mixing = policy.mixing if isinstance(policy, MixedPolicy) else Mixing()
    lm = policy.lm
    origin = lm.origin
    return {
        "name": policy.name,
        "model": lm.name,
        "hub": lm.hub_name,
        "revision": origin.hub.commit,
        "base": lm.fingerprints[0],
        "weights": origin.weights,
        "objectives": list(policy.objectives),
        "mix": policy.kind,
        "anchors": [preference.as_dict() for preference in policy.anchor_preferences],
        "adapters": len(policy.adapters),
        "mixing": vars(mixing),
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "quantization": lm.quantization,
        **_own(policy),
        **({"chat_template": dict(lm.chat_template)} if lm.chat_template else {}),
    }


def _own(policy: Policy) -> dict[str, Any]:
    """Return what the file of a soup between anchors, of a policy that asks in words, or of one with values has beside others'."""
    if trained := trained_preferences(policy):
        return {"trained": [preference.as_dict() for preference in trained]}
    if isinstance(policy, ValuedPolicy):
        return {"augmentation": asdict(policy.augmentation)}
    if not isinstance(policy, PrincipledPolicy):
        return {}
    guidance = None if policy.guidance is None else asdict(policy.guidance)
    return {"principles": asdict(policy.principles), "guidance": guidance}


def refuse_strange(folder: Path) -> None:
    """Raise a ModelError where ``folder`` holds files and no policy, so that :func:`save` would refuse it after all training."""
    if not (folder / FILE).is_file():
        refuse_foreign(folder, FORM)


def load(folder: str | Path, lm: LanguageModel) -> Policy:
    """Read a policy written by :func:`save` onto its base model.

    Raises:
        ModelError: The folder holds no policy, or one of another base model.
    """
    folder = Path(folder)
    facts = PolicyFile.read(folder)
    same = check_weights(folder, facts.base, facts.weights, facts.named_base, lm)
    if not same and facts.quantization != lm.quantization:
        logger.warning(
            "%s: was trained and measured on %s with quantization %s, and it is loaded with %s, so answers may differ; "
            "load it with quantization=%s (--quantization) for those that were measured",
            folder, lm.name, facts.quantization, lm.quantization, facts.quantization,
        )  # fmt: skip
    elif not same:
        logger.warning(
            "%s: %s has the weights of its base model, but another tokenizer or chat template than in training, so answers may "
            "differ; name the model that it was trained on with model= or revision= (--model, --revision)",
            folder,
            lm.name,
        )
    adapters = [
        _of_base(Adapter.load(folder / f"adapter-{number}", facts.base), lm)
        for number in range(facts.adapters)
    ]
    whose = (facts.name, lm, facts.objectives)
    if facts.mix in ("conditioned", "prompt") and len(adapters) != 1:
        raise ModelError(
            f"{folder / FILE}: adapters: {facts.adapters}; a policy of the kind {facts.mix} has one"
        )
    match facts.mix:
        case "base":
            return Policy.base(lm, facts.objectives)
        case "soup":
            return Policy.soup(*whose, adapters)
        case "anchors":
            return Policy.anchors(*whose, adapters, facts.anchor_preferences)
        case "between":
            return Policy.anchors(*whose, adapters, facts.trained_preferences, "soup")
        case "conditioned":
            return Policy.conditioned(*whose, adapters[0])
        case "mod":
            return Policy.mod(*whose, adapters, _stated(Mixing, facts.mixing, "mixing", folder / FILE))
        case "prompt":
            return Policy.prompted(*whose, adapters[0])
        case "principles":
            words = _stated(Principles, facts.principles, "principles", folder / FILE)
            strength = facts.guidance and _stated(Guidance, facts.guidance, "guidance", folder / FILE)
            return Policy.principled(*whose, words, strength or None)
        case "values":
            values = Values.load(folder / VALUES, facts.base, hidden_size(lm.model))
            how = _stated(Augmentation, facts.augmentation, "augmentation", folder / FILE)
            return ValuedPolicy.of(*whose, replace(values, base=lm.fingerprint), how)


def _stated(kind: type[T], values: Mapping[str, Any], key: str, file: Path) -> T:
    """Return what a ``policy.json`` states under a key."""
    try:
        return parse(kind, values, key)
    except ParetuneError as error:
        raise ModelError(f"{file}: {error}; save the policy again") from error


def _of_base(adapter: Adapter, lm: LanguageModel) -> Adapter:
    return replace(adapter, base=lm.fingerprint)


def load_policy(
    folder_or_repository: str | Path,
    *,
    model: str | None = None,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    quantization: str | None = None,
) -> Policy:
    """Load a policy together with its base model, which its ``policy.json`` names.

    The base model is known by its weights: it may lie at another place, or be another commit of the hub with the same weights.

    Args:
        folder_or_repository: The policy's folder, such as ``RUN/policies/modpo``, or a repository of the hub, ``owner/name`` or
            ``owner/name@revision``. A folder of that name comes first.
        model: The base model's folder or hub name here, where it is another than the one that the policy names.
        revision: The branch, tag or commit of the base model on the hub; by default the one that the policy was trained on.
        device: The device, such as ``cuda``; by default an accelerator where there is one.
        dtype: The base model's number format: ``auto``, ``float32`` or ``bfloat16``; by default that of the run, in which the
            policy was trained and measured.
        quantization: How the base model's matrices are held: ``nf4`` or ``int8`` for 4 or 8 bits, ``none`` for the number format;
            by default as in the run. Another way than that is said, as answers then differ a little.

    Raises:
        ModelError: There is no such policy, or its base model cannot be loaded or has other weights.
    """
    folder = policy_folder(folder_or_repository)
    facts = PolicyFile.read(folder)
    held = loaded_as(facts.quantization, quantization)
    return load(
        folder, load_base(facts.named_base, folder, dtype or facts.dtype, device, model, revision, held)
    )
