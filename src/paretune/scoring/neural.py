"""Scorers with a model: reward models, Bradley-Terry heads and implicit rewards, listed in ``scoring.scorer.KINDS``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from paretune.core.bounds import Count, Natural, check_bounds
from paretune.core.errors import ConfigError, ModelError
from paretune.core.files import fingerprint
from paretune.data.rows import Prompt
from paretune.scoring import bradley_terry as bt
from paretune.scoring import encoder as encode
from paretune.scoring.function_scorer import FunctionScorer, check_choices, choice, from_function, sign_of
from paretune.scoring.prototypes import Prototypes
from paretune.scoring.shared_model import SharedModel, shared_model

if TYPE_CHECKING:
    from paretune.models.language_model import LanguageModel


@dataclass(frozen=True)
class RewardModel:
    """Score with logit ``index`` of a sequence-classification model, negated for direction "lower".

    The model is loaded at the first call; see :func:`paretune.scoring.encoder.rewards` for the text that it reads. Up to
    rounding, scores do not depend on ``batch_size`` or on the order of the rows. Scorers of one model share it: it is in memory
    once, and reads a text once for all of its logits that are asked for.

    Attributes:
        objective: Name of the objective.
        model: Folder or hub name of the model (safetensors).
        index: Number of the logit, from 0.
        direction: ``higher`` or ``lower`` is better.
        batch_size: Texts per forward.
        max_length: Largest number of tokens of a text; by default the model's.
        device: Torch device; by default that of the run, else an accelerator if there is one.
        across_prompts: Whether its scores can be compared across prompts. False for a model trained on comparisons alone, whose
            scores have an arbitrary part that depends on the prompt.
        quantization: ``int8`` or ``nf4`` holds the matrices of the model in 8 or 4 bits; by default as they are.
        dtype: ``float32`` or ``bfloat16``; ``auto`` is float32 on a CPU, and elsewhere the format of the model's files.
        head_weight: Name of the weight of the head in the model's files, ``[H, width]`` over the last token's state, where a class
            of its own has another name for it than ``score.weight``; such a class is not run. ArmoRM's is
            ``regression_layer.weight``.

    Raises:
        ConfigError: Settings that cannot be.
    """

    objective: str
    model: str
    index: Natural = 0
    direction: Literal["higher", "lower"] = "higher"
    batch_size: Count = 16
    max_length: Count | None = None
    device: str | None = None
    across_prompts: bool = True
    quantization: Literal["int8", "nf4"] | None = None
    dtype: str = "auto"
    head_weight: str | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        check_bounds(self)
        if self.quantization is not None:
            choice("quantization", self.quantization, ("int8", "nf4"))

    def scorer(self) -> FunctionScorer:
        """Return the scorer, which loads nothing before it is called.

        Raises:
            ModelError: There is no such model, it has no trained head, or no logit ``index``.
        """
        sign, index, length = sign_of(self.direction), self.index, self.max_length
        folder = encode.locate(self.model)
        if index >= (heads := encode.heads_of(folder, self.head_weight)):
            raise ModelError(f"index {index}: {folder} has {heads} outputs, expected 0..{heads - 1}")
        content = encode.content_fingerprint(folder)
        dtype = None if self.dtype == "auto" else self.dtype
        how = [stated for stated in (self.quantization, dtype, self.head_weight) if stated is not None]
        model: SharedModel[encode.Frozen] = shared_model(
            fingerprint("classifier", content, str(self.device), *how),
            lambda: encode.load_classifier(
                folder, self.device, self.quantization, self.dtype, self.head_weight
            ),
        )

        def read(
            classifier: encode.Frozen, prompts: Sequence[Prompt], responses: Sequence[str]
        ) -> np.ndarray:
            return encode.rewards(classifier, prompts, responses, self.batch_size, length)

        def function(
            prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
        ) -> np.ndarray:
            return sign * model.rows(prompts, responses, length, read)[:, index]

        identity = ["classifier", content, index, self.direction, length, *how]
        made = from_function(self.objective, fingerprint(identity), function, self.across_prompts)
        return replace(made, release=model.free)


def bradley_terry(
    objective: str,
    folder: str,
    batch_size: int = 32,
    device: str | None = None,
    labels: dict[str, Any] | None = None,
    dtype: str = "auto",
    length: str = "kept",
) -> FunctionScorer:
    """Score with a head that ``paretune score fit`` fitted, on the log-odds scale of the Bradley-Terry model.

    The fit sees differences within a prompt only, so the part of a score that depends on the prompt is arbitrary: scores
    cannot be compared across prompts.

    Args:
        labels: With ``head: fit``, the judge that labels the training responses from which a run fits the head, such as
            ``{judge: kind.md, model: NAME, sort: greedy}``; by default the data have labels.
        dtype: Number format of the encoder, as of :class:`RewardModel`.
        length: ``removed`` takes out what the head rewards a response for its length alone; ``kept`` does not.

    Raises:
        ConfigError: ``labels`` for a head that is fitted already, or another value of ``length``.
        ModelError: The folder holds no head, or its encoder is missing or has other weights.
    """
    if labels is not None:
        raise ConfigError(
            f"labels: are for head: fit, which a run fits; {folder} is fitted already, so leave them out"
        )
    choice("length", length, ("kept", "removed"))
    head = bt.load_head(folder)
    if length == "removed" and head.report.slope is None:
        raise ModelError(
            f"{folder}: the head of an earlier version does not say what it rewards for length alone; for length: removed, fit it "
            "again with: paretune score fit"
        )
    slope = (head.report.slope or 0.0) if length == "removed" else 0.0
    how = [] if dtype == "auto" else [dtype]
    encoder: SharedModel[encode.Frozen] = shared_model(
        fingerprint("encoder", head.report.encoder, head.report.encoder_fingerprint, str(device), *how),
        lambda: bt.load_encoder_of(head, device, dtype),
    )

    def read(frozen: encode.Frozen, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        return bt.features(frozen, prompts, responses, batch_size)

    def function(
        prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        features = encoder.rows(prompts, responses, "features", read).astype(np.float64)
        if features.shape[1] != len(head.weight):
            raise ModelError(
                f"{folder}: the head is for {len(head.weight)} features, but its encoder gives {features.shape[1]}; fit it again "
                "with: paretune score fit"
            )
        return features @ head.weight - slope * bt.log_words(responses)

    taken_out = [slope] if slope else []
    identity = ["head", head.report.encoder_fingerprint, head.weight.tolist(), *how, *taken_out]
    scorer = from_function(objective, fingerprint(identity), function, across_prompts=False, head=str(folder))
    return replace(scorer, release=encoder.free)


def prototype(
    objective: str, folder: str, name: str = "", device: str | None = None, dtype: str = "auto"
) -> FunctionScorer:
    """Score by the nearness to a prototype that ``paretune pal fit`` found in people's votes (PAL, arXiv 2406.08469).

    The fit sees differences within a prompt only, so scores cannot be compared across prompts.

    Args:
        objective: Name of the objective.
        folder: Folder of the prototypes.
        name: Name of the prototype; by default that of the objective.
        device: Device of the encoder.
        dtype: Number format of the encoder, as of :class:`RewardModel`.

    Raises:
        ModelError: The folder holds no prototypes, or none of this name, or their encoder is missing or has other weights.
    """
    held = Prototypes.load(folder)
    number, how = held.number(name or objective), [] if dtype == "auto" else [dtype]
    encoder: SharedModel[encode.Frozen] = shared_model(
        fingerprint("encoder", held.encoder, held.encoder_fingerprint, str(device), *how),
        lambda: held.load_encoder(device, dtype),
    )

    def function(
        prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        features = encoder.rows(prompts, responses, f"features {held.form.model}", held.features)
        return held.scores(features)[:, number]

    identity = fingerprint("prototype", held.fingerprint, number, *how)
    scorer = from_function(objective, identity, function, across_prompts=False)
    return replace(scorer, release=encoder.free)


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

    def loading() -> LanguageModel:
        from paretune.models.language_model import load

        held = str(adapter.info.get("quantization", "none"))
        held = "auto" if held in ("none", "fp4") else held
        return load(base, dtype, device, quantization=held, chat_template=chat_template)

    named = "language model", base, dtype, str(device), *([dict(chat_template)] if chat_template else [])
    model = shared_model(fingerprint(*named), loading)

    def function(
        prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        from paretune.generation.generate import attached, response_logps

        lm = model.get()
        groups = [
            (lm.encode_prompt(prompt), [lm.encode_response(response, cut)])
            for prompt, response, cut in zip(prompts, responses, truncated, strict=True)
        ]
        reference = response_logps(lm, groups)
        with attached(lm, lm.own(adapter, str(folder))) as steering:
            policy = response_logps(lm, groups, steering, adapter.gates())
        ratios = [float(p[0]) - float(r[0]) for p, r in zip(policy, reference, strict=True)]
        return strength * np.array(ratios, dtype=np.float64)

    identity = ["implicit", adapter.fingerprint, adapter.base, float(strength), dtype]
    scorer = from_function(objective, fingerprint(identity), function, across_prompts=False)
    return replace(scorer, release=model.free)
