"""How llama.cpp splits a text before it merges bytes: each list of regular expressions has a name there (``tokenizer.ggml.pre``).

llama.cpp's own converter knows a tokenizer by a hash of what it makes of one text, so it knows no vocabulary that was changed. Here
the expressions themselves are compared, so that a vocabulary may be any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paretune.core.errors import ModelError

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What ``ByteLevel`` of tokenizers splits by."""
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _words(digits: str) -> str:
    """Return the expression of Llama 3 with another one for digits."""
    return rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"


def _cased(short: str, digits: str) -> str:
    """Return the expression of GPT-4o, which splits words before capitals."""
    lead = r"[^\r\n\p{L}\p{N}]?"
    words = f"{lead}{_UPPER}*{_LOWER}+{short}|{lead}{_UPPER}+{_LOWER}*{short}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"


@dataclass(frozen=True)
class Split:
    """A way of splitting texts that llama.cpp knows.

    Attributes:
        name: Its name there.
        whole: Whether llama.cpp takes a word that is a token as it is, without merging.
    """

    name: str
    whole: bool = False


_LLAMA3 = (_words(r"\p{N}{1,3}"),)
_KNOWN: Mapping[tuple[str, ...], tuple[Split, ...]] = {
    (GPT2,): (Split("gpt-2"),),
    (r"\p{N}", GPT2): (Split("smollm"),),
    _LLAMA3: (Split("llama-bpe", whole=True), Split("dbrx")),
    (_words(r"\p{N}"),): (Split("qwen2"),),
    (_cased("", r"\p{N}"),): (Split("tekken", whole=True),),
    (_cased(f"{_SHORT}?", r"\p{N}{1,3}"),): (Split("gpt-4o"),),
}


def splits_of(steps: Mapping[str, Any] | None, name: str) -> tuple[Split, ...]:
    """Return the ways in which llama.cpp splits texts as a tokenizer does, the likeliest first.

    Args:
        steps: ``pre_tokenizer`` of the tokenizer's JSON.
        name: Name of the model, for messages.

    Raises:
        ModelError: llama.cpp has none that is known here; the message says how the tokenizer splits.
    """
    found = tuple(_expressions(steps, name))
    if found not in _KNOWN:
        raise unknown(name, f"splits texts by {' and then '.join(found) or 'nothing'}")
    return _KNOWN[found]


def _expressions(steps: Mapping[str, Any] | None, name: str) -> Iterator[str]:
    """Yield the expressions by which texts are split, one after the other."""
    listed = [] if steps is None else steps["pretokenizers"] if steps["type"] == "Sequence" else [steps]
    for number, step in enumerate(listed, 1):
        pattern = step.get("pattern") or {}
        if (
            step["type"] == "Split"
            and step["behavior"] == "Isolated"
            and not step["invert"]
            and "Regex" in pattern
        ):
            yield str(pattern["Regex"])
        elif step["type"] == "Digits":
            yield r"\p{N}" if step["individual_digits"] else r"\p{N}+"
        elif step["type"] == "ByteLevel" and not step["add_prefix_space"] and number == len(listed):
            if step["use_regex"]:
                yield GPT2
        else:
            raise unknown(name, f"splits texts by a step {step['type']} ({_facts(step)})")
    if not listed or listed[-1]["type"] != "ByteLevel":
        raise unknown(name, "does not read texts as bytes")


def _facts(step: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in step.items() if key != "type")[:300]


def unknown(name: str, what: str) -> ModelError:
    """Return the refusal of a tokenizer: what it does, and what to do."""
    return ModelError(
        f"{name}: its tokenizer {what}, and that llama.cpp does the same is not known here; leave --with-base out, and convert the "
        "model with llama.cpp's own tool convert_hf_to_gguf.py, which knows more tokenizers. Compare the tokens before you trust it"
    )
