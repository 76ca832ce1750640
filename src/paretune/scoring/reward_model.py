"""The scorer of a reward model that ``paretune score fit --form lora`` fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.core.errors import ConfigError
from paretune.core.files import fingerprint
from paretune.data.rows import Prompt
from paretune.scoring.function_scorer import FunctionScorer, choice, from_function
from paretune.scoring.shared_model import shared_model

if TYPE_CHECKING:
    from paretune.models.language_model import LanguageModel

WORK = 4096
"""Tokens of a forward about."""
CUT = "\0"
"""Mark behind a text that the token limit cut."""


def reward_model(
    objective: str,
    folder: str,
    name: str = "",
    length: str = "kept",
    base: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    chat_template: Mapping[str, Any] | None = None,
) -> FunctionScorer:
    """Score with a reward model, in log-odds of being preferred: ``r(a) - r(b)`` is the log-odds that a is preferred to b.

    The fit sees differences within a prompt only, so scores cannot be compared across prompts.

    Args:
        objective: Name of the objective.
        folder: Folder of the reward model.
        name: Name of its objective that is scored; by default the name of the objective.
        length: ``removed`` takes out what the model rewards a response for its length alone; ``kept`` does not.
        base: Base model, where it lies elsewhere than when the model was fitted.
        dtype: Number format, as in :func:`paretune.models.language_model.load`.
        device: Torch device, as there.
        chat_template: Arguments of the chat template that it was fitted with, as there.

    Raises:
        ModelError: There is no such model or head.
        ConfigError: Another value of ``length``.
    """
    from paretune.models.reward_heads import RewardModel

    choice("length", length, ("kept", "removed"))
    fitted = RewardModel.load(folder)
    number = fitted.number(name or objective)
    slope = fitted.slopes[number] if length == "removed" else 0.0
    place = base or fitted.model

    def loading() -> LanguageModel:
        from paretune.models.language_model import load

        return load(place, dtype, device, chat_template=chat_template)

    named = "language model", place, dtype, str(device), *([dict(chat_template)] if chat_template else [])
    model = shared_model(fingerprint(*named), loading)

    def read(lm: LanguageModel, prompts: Sequence[Prompt], marked: Sequence[str]) -> np.ndarray:
        cut = [text.endswith(CUT) for text in marked]
        texts = [text.removesuffix(CUT) for text in marked]
        found = rewards(lm, fitted, folder, prompts, texts, cut)
        return np.concatenate([found, lengths(lm, texts, cut)[:, None]], axis=1)

    def function(
        prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        # A text is read once for all objectives, and one that was cut is another text than the same words that end.
        marked = [text + CUT * cut for text, cut in zip(responses, truncated, strict=True)]
        found = model.rows(prompts, marked, ["reward", fitted.fingerprint], read)
        return found[:, number] - slope * found[:, -1]

    identity = ["reward", fitted.fingerprint, number, slope, dtype]
    scorer = from_function(objective, fingerprint(identity), function, across_prompts=False, head=str(folder))
    return replace(scorer, part=name, release=model.free)


def rewards(
    lm: LanguageModel,
    fitted: Any,
    folder: str,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    truncated: Sequence[bool],
) -> np.ndarray:
    """Return the rewards ``[n, M]`` of responses.

    Raises:
        ConfigError: A text is longer than the model has positions.
    """
    import torch

    from paretune.generation.generate import attached
    from paretune.models.reward_heads import states

    groups = [
        (lm.encode_prompt(prompt), [lm.encode_response(response, cut)])
        for prompt, response, cut in zip(prompts, responses, truncated, strict=True)
    ]
    sizes = [len(prompt) + len(texts[0]) for prompt, texts in groups]
    if lm.context is not None and max(sizes, default=0) > lm.context:
        raise ConfigError(
            f"a text of {max(sizes)} tokens is longer than the {lm.context} positions of {lm.name}; shorten it"
        )
    order = sorted(range(len(groups)), key=lambda n: sizes[n])
    found = np.zeros((len(groups), len(fitted.objectives)))
    with (
        torch.no_grad(),
        attached(lm, lm.own(fitted.adapter, str(folder))) as steering,
        steering.at(fitted.adapter.gates()),
    ):
        while order:
            part = [order.pop()]
            while order and sizes[part[0]] * (len(part) + 1) <= WORK:
                part.append(order.pop())
            read = states(lm, [groups[n] for n in part]).cpu() @ fitted.heads.T
            found[part] = read.double().numpy()
    return found


def lengths(lm: LanguageModel, responses: Sequence[str], truncated: Sequence[bool]) -> np.ndarray:
    """Return log |y| of each response ``[n]``, in tokens, its end of turn included."""
    tokens = [len(lm.encode_response(text, cut)) for text, cut in zip(responses, truncated, strict=True)]
    return np.log(np.array(tokens, dtype=np.float64))
