"""Answers in a stated form: JSON of a schema, or calls of functions. Tokens that would leave the form cannot be drawn.

The grammar engine is llguidance. What follows the form is decided token by token, so a policy's distribution is kept among the
tokens that may come next.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from paretune.core.errors import ConfigError
from paretune.generation.call_grammar import call_grammar

if TYPE_CHECKING:
    from paretune.core.tools import Tools
    from paretune.models.language_model import LanguageModel

LAYOUT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON on one line. Where white space is free, a small model may write nothing else."""
INSTALL = "pip install 'paretune[serve]'"

_TOKENIZERS: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
"""Tokenizer of a model -> what llguidance makes of it, which takes about a second."""


def form_of(schema: str | None, lm: LanguageModel, tools: Tools | None = None) -> Form:
    """Return the form of a JSON schema, or of calls, at the beginning of an answer of a model.

    Args:
        schema: The schema as text; None for any text.
        lm: The model, whose tokens the answer is made of.
        tools: Functions that the answer calls, or may call in place of the schema.

    Raises:
        ConfigError: The schema is none, or one that cannot be followed; the package is missing; the model's tokenizer has no
            bytes for JSON; or calls in its template cannot be forced.
        ModelError: There are tools, and the chat template has none.
    """
    try:
        from llguidance import LLMatcher
    except ImportError as error:
        raise ConfigError(f"answers in a stated form need the package llguidance: {INSTALL}") from error
    tokenizer = _tokenizer(lm)
    try:
        if tools is not None:
            grammar = call_grammar(tools, lm, schema, LAYOUT)
        else:
            grammar = LLMatcher.grammar_from_json_schema(schema or "true", overrides=LAYOUT)
        matcher = LLMatcher(tokenizer, grammar)
    except ValueError as error:
        raise ConfigError(f"the JSON schema cannot be followed: {_short(error)}") from error
    if matcher.is_error():
        raise ConfigError(f"the JSON schema cannot be followed: {_short(matcher.get_error())}")
    return Form(matcher, tuple(sorted(lm.stops)))


class Form:
    """Where an answer stands in its form."""

    def __init__(self, matcher: Any, stops: tuple[int, ...]) -> None:
        self._matcher, self._stops = matcher, stops

    def admitted(self, vocabulary: int) -> Tensor:
        """Return ``[vocabulary]`` whether each token may come next; after the whole form only the ends of turn."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        admitted = np.zeros(vocabulary, dtype=bool)
        known = np.unpackbits(bits, bitorder="little")[:vocabulary]
        admitted[: len(known)] = known
        if self._matcher.is_stopped() or not admitted.any():
            admitted[:] = False
            admitted[list(self._stops)] = True
        return torch.from_numpy(admitted)

    def take(self, token: int) -> None:
        """Go on by a token that was admitted."""
        if token not in self._stops and not self._matcher.is_stopped():
            self._matcher.consume_token(token)


def _tokenizer(lm: LanguageModel) -> Any:
    found = _TOKENIZERS.get(lm.tokenizer)
    if found is None:
        from llguidance.hf import from_tokenizer

        vocabulary = int(lm.model.get_output_embeddings().weight.shape[0])
        try:
            found = from_tokenizer(lm.tokenizer, n_vocab=vocabulary, eos_token=sorted(lm.stops))
        except Exception as error:
            raise ConfigError(
                f"the tokenizer of {lm.name} cannot write answers in a stated form ({_short(error)})"
            ) from error
        _TOKENIZERS[lm.tokenizer] = found
    return found


def _short(error: object) -> str:
    return " ".join(str(error).split())[:500]
