"""Language models: load one with its chat template, tokenise, sample at one preference per row, score responses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase

from paretune.core.errors import DataError, ModelError
from paretune.core.files import fingerprint
from paretune.data.rows import Prompt
from paretune.models.adapter import Adapter
from paretune.models.chat_template import PLAIN_TEMPLATE, ChatTemplate
from paretune.models.devices import computes, native_bfloat16, present
from paretune.models.embedded import EMBEDDED, EMBEDDED_HUB
from paretune.models.loading import UNREAD, Held, Origin, locate, origin_of, read_model
from paretune.models.packing import prepare
from paretune.models.quantised import Quantization, check_quantization
from paretune.models.tool_calls import CallForm, as_turns, call_form


@dataclass(frozen=True)
class LanguageModel:
    """A frozen causal language model with its tokenizer.

    Attributes:
        name: Name as the user gave it.
        fingerprint: Identity of parameters (quantised ones are others), tokenizer and template; adapters and cached
            log-probabilities carry it.
        tags: Texts that a prompt's encoding turns into one token each, numbered on from the end of the input embedding.
            The model knows them with an adapter that has a row for each (``Adapter.tokens``); responses never hold one.
        date: The time that the chat template writes as today's, if it writes one; None for the present.
        chat_template: Arguments of the chat template, such as ``{"enable_thinking": False}``.
        origin: Where the model comes from.
        quantization: How the frozen matrices are held: ``none``, ``nf4``, ``int8``, or ``fp4`` of a folder saved so.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    fingerprint: str
    tags: tuple[str, ...] = ()
    date: datetime | None = None
    chat_template: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin = UNREAD
    quantization: str = "none"

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.model.device

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template of the tokenizer."""
        return ChatTemplate(self.tokenizer, self.name, self.date, self.chat_template)

    @cached_property
    def turn_end(self) -> int:
        """Token that ends an assistant's turn, see :attr:`paretune.models.chat_template.ChatTemplate.turn_end`."""
        return self.template.turn_end

    @cached_property
    def context(self) -> int | None:
        """The number of positions that the model has, for a prompt and its answer together; None where it states none."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(positions) if positions and positions > 0 else None

    def room(self, most: int) -> int:
        """Return the limit of tokens for prompt and response together: ``most``, or fewer where the model has fewer positions."""
        return most if self.context is None else min(most, self.context)

    @cached_property
    def stops(self) -> frozenset[int]:
        """Tokens that end a response."""
        ids = self.model.generation_config.eos_token_id if self.model.generation_config else None
        listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
        eos = self.tokenizer.eos_token_id
        return frozenset([self.turn_end, *listed, *([] if eos is None else [int(eos)])])

    @cached_property
    def call_form(self) -> CallForm:
        """How the chat template writes calls of functions, see :func:`paretune.models.tool_calls.call_form`."""
        markers = [str(self.tokenizer.decode([token])) for token in sorted(self.stops)]
        return call_form(self.template, markers)

    def encode_prompt(
        self, prompt: Prompt, where: str = "", tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Return the token ids of a prompt, ready for the assistant's answer (one BOS at most).

        Args:
            prompt: The messages.
            where: Where the prompt comes from, such as ``file:line``; messages begin with it.
            tools: Functions that the answer may call, in the form of OpenAI's API.

        Raises:
            DataError: The chat template refuses the prompt, drops, changes or repeats a text of it, or changes the number of its
                tags.
        """
        messages = as_turns(prompt)
        try:
            text = self.template.prompt(messages, tools)
        except DataError as error:
            raise DataError(f"{where}: {error}" if where else str(error)) from error
        reader, numbers = self._reader
        ids = (
            self._begun(text) if self.template.lacks_bos else reader(text, add_special_tokens=False).input_ids
        )
        # A template that cuts something out of a text may break a tag, or make one out of what a user wrote.
        written = sum(message.content.count(tag) for message in prompt for tag in self.tags)
        read = sum(i in numbers for i in ids)
        if written != read:
            raise DataError(
                f"{read} tags are read from a prompt that holds {written}: the chat template or tokenizer of {self.name} changes "
                f"them, in {messages!r:.200}; write the prompt otherwise, or use methods.ric.form=levels"
            )
        return [numbers.get(i, i) for i in ids]

    def encode_text(self, text: str) -> list[int]:
        """Return the token ids of a text that is no conversation, as the tokenizer begins one."""
        _, numbers = self._reader
        return [numbers.get(i, i) for i in self._begun(text)]

    def _begun(self, text: str) -> list[int]:
        """Return the numbers of a text as the tokenizer begins it, with a BOS where it knows one, and without its end."""
        reader, _ = self._reader
        ids = list(reader(text).input_ids)
        return ids[: len(ids) - self._closing] if self._closing else ids

    @cached_property
    def _closing(self) -> int:
        """The number of tokens with which the tokenizer ends a text, such as an EOS."""
        plain, whole = (list(self.tokenizer("x", add_special_tokens=add).input_ids) for add in (False, True))
        start = next((n for n in range(len(whole)) if whole[n : n + len(plain)] == plain), 0)
        return max(0, len(whole) - start - len(plain))

    @cached_property
    def _reader(self) -> tuple[PreTrainedTokenizerBase, dict[int, int]]:
        """The tokenizer of prompts, and from its numbers of the tags to those of the model (some have unused rows between)."""
        if not self.tags:
            return self.tokenizer, {}
        reader = deepcopy(self.tokenizer)
        reader.add_tokens([AddedToken(tag, normalized=False, special=True) for tag in self.tags], True)
        first = self.model.get_input_embeddings().weight.shape[0]
        return reader, {
            reader.convert_tokens_to_ids(tag): first + number for number, tag in enumerate(self.tags)
        }

    @torch.no_grad()
    def tag_embeddings(self) -> Tensor | None:
        """Return where the training of the tags' embeddings begins: fp32 ``[n, d]`` on the CPU, None without tags.

        Each is the mean over the tokens of its text, so that levels start as near as their texts are.
        """
        if not self.tags:
            return None
        embedding = self.model.get_input_embeddings()
        texts = [self.tokenizer(tag, add_special_tokens=False).input_ids for tag in self.tags]
        rows = [embedding(torch.tensor(ids, device=self.device)).float().mean(0).cpu() for ids in texts]
        return torch.stack(rows)

    @cached_property
    def fingerprints(self) -> tuple[str, ...]:
        """All fingerprints that mean this model: the present one first, then those that earlier versions gave it."""
        return self.fingerprints_in(self.quantization) if self.origin.weights else (self.fingerprint,)

    def fingerprints_in(self, quantization: str) -> tuple[str, ...]:
        """Return the :attr:`fingerprints` that this model has where its matrices are held in ``quantization``."""
        known = (self.origin.weights, *self.origin.earlier)
        return tuple(_identity(each, self.tokenizer, quantization, self.chat_template) for each in known)

    @property
    def hub_name(self) -> str:
        """The base model's name on the hub; empty where it is not known."""
        return self.origin.hub.name or (EMBEDDED_HUB if self.name == EMBEDDED else "")

    @property
    def portable_name(self) -> str:
        """The base model's name for other programs: the hub's where it is known, else the folder that they can read."""
        return self.hub_name or (str(self.origin.folder.absolute()) if self.origin.weights else self.name)

    def own(self, adapter: Adapter, name: str = "adapter") -> Adapter:
        """Return an adapter as one of this model, whichever of the model's fingerprints it carries.

        Raises:
            ModelError: It belongs to another base model; ``name`` says in the message what it is.
        """
        trained = str(adapter.info.get("quantization", "none"))
        if trained != self.quantization and adapter.base in self.fingerprints_in(trained):
            raise ModelError(
                f"{name}: was trained on {self.name} with quantization: {trained}, and the model is held in "
                f"{self.quantization} here; set quantization: {trained}"
            )
        if adapter.base not in self.fingerprints:
            adapter.check_base(self.fingerprint, name)
        return replace(adapter, base=self.fingerprint)

    def check_tags(self, adapter: Adapter) -> None:
        """Raise a ModelError unless ``adapter`` has an embedding for each of the tags, and no other."""
        held = 0 if adapter.tokens is None else len(adapter.tokens)
        if held != len(self.tags):
            raise ModelError(
                f"the adapter has embeddings of {held} tokens of its own, but prompts are written with {len(self.tags)}; it was "
                "trained for another form of tags, or for other objectives"
            )

    def encode_response(self, text: str, truncated: bool = False) -> list[int]:
        """Return the token ids of a response, closed by the end of turn unless the response was cut.

        It is read behind what stands before it in the template, so that its tokens are those that the model itself would write:
        with its thought, or with what the template writes in place of one.
        """
        before, space = self.template.opening
        if self.template.trims:
            text = text.lstrip() if truncated else text.strip()
        text = self.template.written(text)
        lead = before + ("" if text.startswith(space) else space)
        opening = self._opening
        ids = list(self.tokenizer(lead + text, add_special_tokens=False).input_ids)
        if ids[: len(opening)] == opening:
            ids = ids[len(opening) :]
        else:  # the text begins with what joins the token before it
            ids = list(self.tokenizer(lead[len(before) :] + text, add_special_tokens=False).input_ids)
        return ids if truncated else [*ids, self.turn_end]

    @cached_property
    def _opening(self) -> list[int]:
        return list(self.tokenizer(self.template.opening[0], add_special_tokens=False).input_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of response tokens without special tokens, with its whole thought where there is one."""
        return self.template.answer(self.text(ids).strip())

    def text(self, ids: Sequence[int], more: frozenset[int] = frozenset()) -> str:
        """Return the text of tokens without special tokens, but for ``more`` and those of which the markers of thought are made."""
        kept = self.template.kept | more
        if not kept.intersection(ids):
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        special = set(self.tokenizer.all_special_ids) - kept
        return str(self.tokenizer.decode([i for i in ids if i not in special], skip_special_tokens=False))


def load(
    name: str = EMBEDDED,
    dtype: str = "auto",
    device: str | None = None,
    revision: str | None = None,
    quantization: Quantization | str = "auto",
    attention: str = "auto",
    chat_template: Mapping[str, Any] | None = None,
) -> LanguageModel:
    """Load a causal language model for training and sampling.

    On the CPU its linear layers keep copies of their parameters in a faster layout; with ``PARETUNE_PREPACK=0`` in the environment
    they do without, for a model that fills most of the memory.

    Args:
        name: ``smollm2-135m`` (the embedded default), a hub name, a folder, or a GGUF file.
        dtype: ``float32``, ``bfloat16``, or ``auto``: bfloat16 where the device computes it natively.
        device: ``cpu``, ``cuda``, ...; by default an accelerator when there is one.
        revision: The branch, tag or commit of a model on the hub; by default its main branch.
        quantization: How the frozen matrices are held: ``nf4`` or ``int8`` for 4 or 8 bits by bitsandbytes, ``none`` for the number
            format, or ``auto`` for what the model's folder holds.
        attention: Attention over packed batches: ``auto`` takes the best that the device has, others are ``blocks``, ``products``,
            ``sdpa``, ``flex`` and ``varlen`` (:mod:`paretune.models.packed_attention.backends`).
        chat_template: Arguments of the chat template, such as ``{"enable_thinking": False}``.

    Raises:
        ModelError: Not found, not loadable, without these arguments in its chat template, or of an architecture that packed batches
            cannot run; or ``attention`` cannot run here.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    check_quantization(quantization)
    resolved, kind = computing(dtype, device)
    source = locate(name, revision)
    held, model, tokenizer = read_model(source, name, Held(kind, resolved, quantization))
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    origin = origin_of(source)
    given = dict(chat_template or {})
    identity = _identity(origin.weights, tokenizer, held, given)
    lm = LanguageModel(
        model, tokenizer, name, identity, chat_template=given, origin=origin, quantization=held
    )
    lm.template.check_options()
    _ = lm.turn_end, lm.template.opening  # a template that writes no answer is refused now
    try:
        model.eval().requires_grad_(False)
        if held == "none":  # a quantised one is there already
            model.to(resolved)
    except RuntimeError as error:
        raise ModelError(
            f"{name}: does not fit on the device {resolved} ({str(error).splitlines()[0]}); set device, or a smaller model"
        ) from error
    prepare(model, prepack=os.environ.get("PARETUNE_PREPACK") != "0", attention=attention)
    return lm


def _identity(
    weights: str, tokenizer: PreTrainedTokenizerBase, quantization: str, chat_template: Mapping[str, Any]
) -> str:
    held = [] if quantization == "none" else [quantization]
    arguments = [dict(chat_template)] if chat_template else []
    return fingerprint(weights, fingerprint(tokenizer.chat_template, len(tokenizer), *arguments), *held)


def computing(dtype: str, device: str | None) -> tuple[torch.device, torch.dtype]:
    """Return the device and the number format that :func:`load` chooses.

    Raises:
        ModelError: A number format that is not known or that the device does not compute in, or a device that is not known or that
            this machine lacks.
    """
    resolved = present(device)
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(dtype)
    if kind is None:
        if dtype != "auto":
            raise ModelError(f"dtype {dtype!r} is not known; expected one of: auto, float32, bfloat16")
        kind = torch.bfloat16 if native_bfloat16(resolved) else torch.float32
    if not computes(resolved, kind):
        raise ModelError(
            f"dtype {dtype!r}: the device {resolved} does not compute in {dtype}; set dtype: float32 (--dtype float32), or another "
            "device"
        )
    return resolved, kind
