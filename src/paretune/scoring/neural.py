"""Scorers with a model: reward models, Bradley-Terry heads and implicit rewards, listed in ``scoring.scorer.KINDS``."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.core.errors import ConfigError, ModelError
from paretune.core.files import fingerprint
from paretune.data.rows import Prompt
from paretune.scoring import bradley_terry as bt
from paretune.scoring import encoder as encode
from paretune.scoring.function_scorer import FunctionScorer, from_function, sign_of

if TYPE_CHECKING:
    from paretune.models.language_model import LanguageModel


def sequence_classifier(
    objective: str,
    name_or_folder: str,
    index: int = 0,
    direction: str = "higher",
    batch_size: int = 16,
    max_length: int | None = None,
    device: str | None = None,
    across_prompts: bool = True,
) -> FunctionScorer:
    """Score with logit ``index`` of a sequence-classification model, negated for direction "lower".

    The model is loaded at the first call; see :func:`paretune.scoring.encoder.rewards` for the text that it reads. Up to
    rounding, scores do not depend on ``batch_size`` or on the order of the rows.

    Args:
        objective: Name of the objective.
        name_or_folder: Folder or hub name of the model (safetensors).
        index: Number of the logit, from 0.
        direction: ``higher`` or ``lower`` is better.
        batch_size: Texts per forward.
        max_length: Largest number of tokens of a text; by default the model's.
        device: Torch device; by default an accelerator if there is one.
        across_prompts: Whether its scores can be compared across prompts. False for a model trained on comparisons alone, whose
            scores have an arbitrary part that depends on the prompt.

    Raises:
        ModelError: There is no such model, or it has no trained head.
    """
    sign = sign_of(direction)
    length = 1 if max_length is None else max_length
    for name, value, least in (("index", index, 0), ("batch_size", batch_size, 1), ("max_length", length, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name}: {value!r}: expected a whole number of at least {least}")
    if not isinstance(across_prompts, bool):
        raise ConfigError(f"across_prompts: {across_prompts!r}: expected true or false")
    folder = encode.locate(name_or_folder)

    @functools.cache
    def loaded() -> encode.Frozen:
        return encode.load_classifier(folder, device)

    def function(
        prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        return sign * encode.rewards(loaded(), prompts, responses, index, batch_size, max_length)

    identity = ["classifier", encode.content_fingerprint(folder), index, direction, max_length]
    return from_function(objective, fingerprint(identity), function, across_prompts)


def bradley_terry(
    objective: str, folder: str, batch_size: int = 32, device: str | None = None
) -> FunctionScorer:
    """Score with a head that ``paretune score fit`` fitted, on the log-odds scale of the Bradley-Terry model.

    The fit sees differences within a prompt only, so the part of a score that depends on the prompt is arbitrary: scores
    cannot be compared across prompts.

    Raises:
        ModelError: The folder holds no head, or its encoder is missing or has other weights.
    """
    head = bt.load_head(folder)

    @functools.cache
    def loaded() -> encode.Frozen:
        return bt.load_encoder_of(head, device)

    def function(
        prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        features = bt.features(loaded(), prompts, responses, batch_size).astype(np.float64)
        if features.shape[1] != len(head.weight):
            raise ModelError(
                f"{folder}: the head is for {len(head.weight)} features, but its encoder gives {features.shape[1]}; fit it again "
                "with: paretune score fit"
            )
        return features @ head.weight

    identity = ["head", head.report.encoder_fingerprint, head.weight.tolist()]
    return from_function(objective, fingerprint(identity), function, across_prompts=False, head=str(folder))


def implicit_reward(
    objective: str,
    folder: str,
    base: str = "smollm2-135m",
    beta: float | None = None,
    dtype: str = "auto",
    device: str | None = None,
    chat_template: Mapping[str, Any] | None = None,
) -> FunctionScorer:
    """Score with the reward that a preference-trained adapter implies: beta (log pi - log pi_ref), in units of reward.

    The log-probabilities are sums over the response's tokens, end of turn included unless it was cut (Rafailov et al.
    2023, arXiv 2305.18290, Eq. 5). The term that depends on the prompt alone is left out, so scores cannot be compared across
    prompts.

    Args:
        objective: Name of the objective.
        folder: Adapter written by a run, such as ``RUN/adapters/dpo-warm/adapter``.
        base: Base model that it was trained on.
        beta: Strength of the KL penalty in training; by default the value stored with the adapter.
        dtype: Data type, as in :func:`paretune.models.language_model.load`.
        device: Torch device, as there.
        chat_template: Arguments of the chat template that it was trained with, as there.

    Raises:
        ModelError: There is no such adapter, or it was trained on another base model.
        ConfigError: ``beta`` is neither given nor stored, or the adapter was trained under another divergence than DPO's.
    """
    from paretune.models.adapter import Adapter

    adapter = Adapter.load(folder)
    if adapter.info.get("divergence", "reverse-kl") != "reverse-kl":
        raise ConfigError(
            f"{folder}: trained under the divergence {adapter.info['divergence']}, but the implicit reward is that of the reverse "
            "KL; name an adapter that DPO trained"
        )
    stored = adapter.info.get("beta")
    strength = beta if beta is not None else stored
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not strength > 0:
        raise ConfigError(f"beta: {strength!r}: expected a number above 0, as {folder} was trained with")

    @functools.cache
    def loaded() -> LanguageModel:
        from paretune.models.language_model import load

        return load(base, dtype, device, chat_template=chat_template)

    def function(
        prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        from paretune.generation.generate import attached, response_logps

        lm = loaded()
        groups = [
            (lm.encode_prompt(prompt), [lm.encode_response(response, cut)])
            for prompt, response, cut in zip(prompts, responses, truncated, strict=True)
        ]
        reference = response_logps(lm, groups)
        with attached(lm, lm.own(adapter, str(folder))) as steering:
            policy = response_logps(lm, groups, steering, adapter.gates())
        ratios = [float(p[0]) - float(r[0]) for p, r in zip(policy, reference, strict=True)]
        return strength * np.array(ratios, dtype=np.float64)

    identity = [
        "implicit",
        adapter.fingerprint,
        adapter.base,
        float(strength),
        dtype,
    ]  # the base knows the chat template
    return from_function(objective, fingerprint(identity), function, across_prompts=False)
