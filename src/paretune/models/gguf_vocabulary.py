"""A tokenizer and its chat template as a GGUF file has them, so that llama.cpp reads the same tokens, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from paretune.core.errors import DataError, ModelError
from paretune.data.rows import Message
from paretune.models.gguf_pieces import (
    UNMERGED,
    as_llama_cpp,
    is_byte,
    merged_by_scores,
    runs_of,
    scores_of,
    space_schemes,
)
from paretune.models.gguf_splits import Split, splits_of, unknown
from paretune.models.language_model import LanguageModel
from paretune.models.tool_calls import as_turns

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of tokens in GGUF."""
SPECIAL = ("bos", "eos", "unk", "sep", "pad", "mask")
ENDS = frozenset(
    [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "<|end_of_text|>",
        "<end_of_utterance>",
    ]
)
"""Tokens at which every llama.cpp ends an answer; others it has to be told of."""
SLOTS = ("eot", "eom")
"""Kinds of tokens besides EOS that end an answer; each is one token."""
NEVER = frozenset(map(chr, (0xC0, 0xC1, *range(0xF5, 0x100))))
"""Bytes that no text has, as ByteLevel writes them."""
NOT_STRIPPING = ("<unk>", "<s>", "<|endoftext|>")
PHI3 = ("phi-3", "phi3")
"""In a model of this name llama.cpp lets special tokens take the white space behind them along, except the above."""
PROBES = (
    "Hello there, it's 5 o'clock.",
    " two  spaces\n\tand a tab, façade, 東京 12345 🙂",
)
"""Contents of the prompts that are read both ways where a prompt may begin with a space or not."""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer.

    Attributes:
        kind: ``gpt2`` or ``llama``.
        pre: Name of the way in which texts are split; ``default`` where they are not.
        tokens: The text of each token, one for each row of the embedding.
        types: Their kinds.
        scores: Their scores, which say the order of merging; empty for ``gpt2``.
        merges: Pairs, which say the same for ``gpt2``; else empty.
        special: Kind of a special token, such as ``eos``, and its number.
        begins: Whether texts begin with BOS.
        prefix: Whether a text behind a special token begins with a space.
        template: The chat template, or several by their names.
        name: Name of the model, which llama.cpp reads something from.
        notes: What a user has to know.
    """

    kind: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]
    special: Mapping[str, int]
    begins: bool
    prefix: bool
    template: str | list[dict[str, str]]
    name: str
    notes: tuple[str, ...] = field(default=())

    def add_to(self, writer: Any) -> None:
        """Add all this to a ``gguf.GGUFWriter``."""
        writer.add_name(self.name)
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.scores:
            writer.add_token_scores(self.scores)
        if self.merges:
            writer.add_token_merges(self.merges)
        for kind, number in self.special.items():
            getattr(writer, f"add_{kind}_token_id")(number)
        writer.add_add_bos_token(self.begins)
        writer.add_add_eos_token(False)
        writer.add_add_space_prefix(self.prefix)
        writer.add_chat_template(self.template)


def vocabulary_of(lm: LanguageModel) -> Vocabulary:
    """Return a model's tokenizer and template for a GGUF file.

    Raises:
        ModelError: llama.cpp would not read the same tokens from a text, or is not known to; the message says what it is about.
    """
    return _Reading(lm).vocabulary()


class _Reading:
    """A tokenizer that is being read."""

    def __init__(self, lm: LanguageModel) -> None:
        tokenizer = lm.tokenizer
        self.lm, self.name = lm, lm.name
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise unknown(self.name, f"is a {type(tokenizer).__name__}, and none of the package tokenizers")
        self.tokenizer, self.backend = tokenizer, tokenizer.backend_tokenizer
        self.facts: dict[str, Any] = json.loads(self.backend.to_str())
        self.model: dict[str, Any] = self.facts["model"]
        if self.model["type"] != "BPE":
            raise unknown(self.name, f"is of the type {self.model['type']}, and no BPE")
        self.merges: list[tuple[str, str]] = []
        for pair in self.model["merges"]:
            left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
            self.merges.append((str(left), str(right)))
        self.rows = int(lm.model.get_input_embeddings().weight.shape[0])
        self.notes: list[str] = []

    def vocabulary(self) -> Vocabulary:
        for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if self.model.get(key):
                raise unknown(self.name, f"has {key} {self.model[key]!r}")
        self._check_added()
        pieces = bool(self.model.get("byte_fallback"))
        scores = scores_of(self.model["vocab"], self.merges, self.name) if pieces else {}
        for run in runs_of(scores):
            if [token.value for token in self.backend.model.tokenize(run)] != merged_by_scores(run, scores):
                raise unknown(self.name, f"merges {run!r} in an order of its own")
        tokens, types = self._tokens(pieces)
        needed = (
            [f"<0x{byte:02X}>" for byte in range(256)] if pieces else sorted({*ByteLevel.alphabet()} - NEVER)
        )
        missing = [byte for byte in needed if byte not in self.model["vocab"]]
        if missing and (pieces or self.model.get("unk_token")):
            raise unknown(self.name, f"has no token for some bytes ({', '.join(missing[:3])})")
        return Vocabulary(
            kind="llama" if pieces else "gpt2",
            pre="default" if pieces else self._split().name,
            tokens=tokens,
            types=types,
            scores=[scores.get(token, UNMERGED) for token in tokens] if pieces else [],
            merges=[]
            if pieces
            else [" ".join(part.replace(" ", "Ġ") for part in pair) for pair in self.merges],
            special=self._special(),
            begins=self.begins,
            prefix=pieces and self._prefix(),
            template=self._template(),
            name=self._called(),
            notes=tuple(self.notes),
        )

    @property
    def added(self) -> list[dict[str, Any]]:
        """Tokens that are read wherever they stand."""
        return list(self.facts["added_tokens"])

    def _check_added(self) -> None:
        normalizer = self.backend.normalizer
        for token in self.added:
            content = token["content"]
            if token["single_word"] or token["lstrip"]:
                raise unknown(
                    self.name, f"reads {content!r} as a word of its own, or with the white space before it"
                )
            if (
                token["normalized"]
                and normalizer is not None
                and normalizer.normalize_str(content) != content
            ):
                raise unknown(
                    self.name,
                    f"looks for {content!r} behind its changes of texts (normalized in tokenizer.json; false would do)",
                )
        stripping = {token["content"] for token in self.added if token["rstrip"]}
        if stripping and stripping != {t["content"] for t in self.added} - set(NOT_STRIPPING):
            raise unknown(
                self.name,
                f"takes the white space behind {sorted(stripping)[0]!r} along, and not behind others",
            )
        if stripping and not {*NOT_STRIPPING, "</s>"} <= {t["content"] for t in self.added}:
            raise unknown(
                self.name, f"takes the white space behind {sorted(stripping)[0]!r} along, and is no Phi-3's"
            )
        self.stripping = frozenset(stripping)

    def _tokens(self, pieces: bool) -> tuple[list[str], list[int]]:
        """Return text and kind of each row of the embedding; rows without a token get one that no text has."""
        tokens, types = [f"[PAD{row}]" for row in range(self.rows)], [UNUSED] * self.rows
        for token, number in self.model["vocab"].items():
            tokens[number], types[number] = token, BYTE if pieces and is_byte(token) else NORMAL
        for token in self.added:
            number, content = token["id"], token["content"]
            spaced = pieces and "▁" in content and content in self.model["vocab"]
            if pieces and content == self.model.get("unk_token"):
                types[number] = UNKNOWN
            elif not spaced or token["special"]:  # a run of spaces is merged, and stands in no text by itself
                types[number] = CONTROL if token["special"] else USER_DEFINED
            tokens[number] = content
        twice = len(set(tokens)) < len(tokens)
        if twice:
            raise unknown(self.name, "has two tokens of the same text")
        return tokens, types

    def _split(self) -> Split:
        """Return llama.cpp's way of splitting texts.

        Raises:
            ModelError: It has none, or takes words as they are where the tokenizer merges.
        """
        normalizer = self.facts["normalizer"]
        if normalizer == {"type": "NFC"}:
            self.notes.append(
                "llama.cpp does not bring texts to Unicode's NFC before it reads them, as the tokenizer does; send texts in NFC"
            )
        elif normalizer is not None:
            raise unknown(self.name, f"changes texts by a step {normalizer['type']} ({normalizer!s:.200})")
        found = splits_of(self.facts["pre_tokenizer"], self.name)
        whole = bool(self.model.get("ignore_merges"))
        alike = [split for split in found if split.whole == whole]
        if not alike and not self._merges_all():
            raise unknown(
                self.name,
                f"{'takes words that are tokens as they are' if whole else 'merges words that are tokens'}",
            )
        return (alike or found)[0]

    def _merges_all(self) -> bool:
        """Return whether merging makes each token of its own text, so that it is all the same whether words are taken whole."""
        model = self.backend.model
        before = model.ignore_merges
        model.ignore_merges = False
        try:
            own = {token["content"] for token in self.added}
            return all(len(model.tokenize(token)) == 1 for token in self.model["vocab"] if token not in own)
        finally:
            model.ignore_merges = before

    @cached_property
    def begins(self) -> bool:
        """Whether texts begin with BOS.

        Raises:
            ModelError: They begin with something else.
        """
        plain, whole = (list(self.tokenizer("x", add_special_tokens=add).input_ids) for add in (False, True))
        start = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)
        if whole[:start] not in ([], [self.tokenizer.bos_token_id]):
            raise unknown(self.name, f"begins texts with {self.tokenizer.decode(whole[:start])!r}")
        return start > 0

    def _special(self) -> dict[str, int]:
        """Return the special tokens by their kinds; tokens that end an answer are ``eos``, ``eot`` and ``eom``."""
        found = {kind: getattr(self.tokenizer, f"{kind}_token_id") for kind in SPECIAL}
        special = {kind: int(number) for kind, number in found.items() if number is not None}
        end = special.setdefault("eos", self.lm.turn_end)
        more = sorted(self.lm.stops - {end, -1})
        untold = [token for token in more if str(self.tokenizer.convert_ids_to_tokens(token)) not in ENDS]
        if len(untold) > len(SLOTS):
            raise ModelError(
                f"{self.name}: answers end with {len(more) + 1} tokens, and llama.cpp takes three and those that it knows; take "
                f"tokens such as {self.tokenizer.convert_ids_to_tokens(untold[-1])!r} out of eos_token_id in generation_config.json"
            )
        turn = {"eot": self.lm.turn_end} if self.lm.turn_end in more else {}
        return special | turn | dict(zip(SLOTS, untold, strict=False))

    def _template(self) -> str | list[dict[str, str]]:
        template = self.tokenizer.chat_template
        if isinstance(template, dict):
            return [{"name": name, "template": text} for name, text in template.items()]
        return str(template)

    def _called(self) -> str:
        """Return a name of the model that makes llama.cpp treat white space as the tokenizer does."""
        name = self.lm.hub_name.rpartition("/")[2] or self.lm.origin.folder.name or "model"
        phi = any(part in name.lower() for part in PHI3)
        if phi == bool(self.stripping) and "modern-bert" not in name.lower():
            return name
        return "Phi-3" if self.stripping else "model"

    def _prefix(self) -> bool:
        """Return whether a text behind a special token begins with a space in llama.cpp.

        Raises:
            ModelError: Prompts of the chat template are read differently in either case.
        """
        schemes = space_schemes(self.facts["normalizer"], self.facts["pre_tokenizer"], self.name)
        for prefix in schemes:
            if all(self._reads(text, ids, prefix) for text, ids in self._prompts()):
                if not all(
                    self._reads(text, self.lm.encode_text(text), prefix) for text in ("x", " x", "\nx")
                ):
                    self.notes.append(
                        "llama.cpp reads prompts of the chat template as the tokenizer does, but a text without it with one space "
                        "more or less at its beginning"
                    )
                return prefix
        raise unknown(
            self.name, "writes a space before some parts of the chat template and not before others"
        )

    def _reads(self, text: str, ids: list[int], prefix: bool) -> bool:
        special = {token["content"]: token["id"] for token in self.added}
        vocabulary = self.model["vocab"]
        special = {
            text: number for text, number in special.items() if not ("▁" in text and text in vocabulary)
        }

        def merged(part: str) -> list[int]:
            return [token.id for token in self.backend.model.tokenize(part)]

        bos = self.tokenizer.bos_token_id
        read = as_llama_cpp(text, special, self.stripping, merged, prefix)
        return ([bos, *read] if self.begins and read[:1] != [bos] else read) == ids

    def _prompts(self) -> Iterator[tuple[str, list[int]]]:
        """Yield prompts as the chat template writes them, and their tokens."""
        for content in PROBES:
            question = (Message("user", content),)
            for prompt in (question, (*question, Message("assistant", content), Message("user", "x"))):
                try:
                    yield self.lm.template.prompt(as_turns(prompt)), self.lm.encode_prompt(prompt)
                except DataError:  # a template may refuse answers, or such texts
                    continue
