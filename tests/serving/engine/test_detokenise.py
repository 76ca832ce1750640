"""Text that grows: whole characters whatever the tokenizer, and stop strings whatever the pieces."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from paretune.serving.engine.detokenise import Characters, StoppableText

TEXTS = ["naïve 😀👩‍👩‍👧 日本語", "a b\n\n c", "é́", "🏴󠁧󠁢󠁷󠁬󠁳󠁿 flag", "plain"]


def byte_level() -> Tokenizer:
    """A token for each byte, as GPT-2's and SmolLM's tokenizers have for rare characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({mark: i for i, mark in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Words with a mark for the space, and bytes for what is no word, as Llama's tokenizer has."""
    vocabulary = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁plain", "a", "▁b", "c", "▁c"]
    tokenizer = Tokenizer(
        models.BPE({word: i for i, word in enumerate(vocabulary)}, [], byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


KINDS = {"byte-level": byte_level(), "byte-fallback": byte_fallback()}


def pieces_of(decode: Callable[[Sequence[int]], str], tokens: Sequence[int]) -> list[str]:
    characters = Characters(decode)
    return [*(characters.push(token) for token in tokens), characters.finish()]


def encoded(kind: str, text: str) -> list[int]:
    """Byte by byte, so that every character is cut."""
    if kind == "byte-level":
        return KINDS[kind].encode(text).ids
    words = {" ": "▁", "a": "a", "c": "c"}
    ids = []
    for character in text:
        marks = (
            [words[character]] if character in words else [f"<0x{byte:02X}>" for byte in character.encode()]
        )
        ids += [KINDS[kind].token_to_id(mark) for mark in marks]
    return ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_characters_are_never_cut(kind: str, text: str) -> None:
    tokens = encoded(kind, text)
    pieces = pieces_of(KINDS[kind].decode, tokens)
    assert "".join(pieces) == KINDS[kind].decode(tokens) == text
    assert not any("\ufffd" in piece for piece in pieces)
    # Nothing is held back longer than needed: a piece for every character.
    assert len([piece for piece in pieces if piece]) >= len(text) - 1


@pytest.mark.parametrize("seed", range(200))
def test_bytes_that_are_no_characters_end_up_as_decoded(seed: int) -> None:
    rng = random.Random(seed)
    tokenizer = KINDS["byte-level"]
    tokens = [rng.randrange(tokenizer.get_vocab_size()) for _ in range(rng.randrange(60))]
    assert "".join(pieces_of(tokenizer.decode, tokens)) == tokenizer.decode(tokens)


def test_a_long_run_of_broken_bytes_is_not_held_back() -> None:
    tokenizer = KINDS["byte-level"]
    broken = tokenizer.encode("é").ids[1]
    pieces = pieces_of(tokenizer.decode, [broken] * 50)
    assert [len(piece) for piece in pieces] == [0, 0, 0] + [1] * 47 + [3]


def test_only_a_few_tokens_are_decoded_again() -> None:
    seen = []

    def decode(tokens: Sequence[int]) -> str:
        seen.append(len(tokens))
        return KINDS["byte-level"].decode(tokens)

    pieces_of(decode, encoded("byte-level", "word " * 200 + "😀"))
    assert max(seen) <= 6


def expected(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The rule, character by character: the text without white space around it, up to the first complete stop string."""
    text = text.lstrip()
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)].rstrip(), True
    return text.rstrip(), False


@given(
    st.lists(st.text("ab \n", max_size=4), max_size=12),
    st.lists(st.text("ab \n", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_follow_the_rule(pieces: list[str], stops: list[str]) -> None:
    text = StoppableText(stops)
    given = [text.push(piece) for piece in pieces]
    sofar = list(itertools.accumulate(given))
    given.append(text.finish())
    want, stopped = expected("".join(pieces), stops)
    assert ("".join(given), text.stopped) == (want, stopped)
    assert all(want.startswith(part) for part in sofar), "what is out is never taken back"


def test_what_cannot_become_a_stop_string_is_not_held_back() -> None:
    text = StoppableText(["STOP"])
    assert [text.push(piece) for piece in ("one S", "TO", "E ", "two", " STO", "P three")] == [
        "one",
        "",
        " STOE",
        " two",
        "",
        "",
    ]
    assert text.stopped and text.finish() == ""


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_header_is_no_part_of_the_text(size: int) -> None:
    """What a template writes in place of a thought: left out whole, and anything that only begins so is text."""
    header = "<think>\n\n</think>"

    def shown(whole: str) -> str:
        text = StoppableText(["STOP"], header)
        pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
        return "".join([*map(text.push, pieces), text.finish()])

    assert shown(f"{header}\n\nBlue.") == "Blue."
    assert shown("<think>\nwhy</think>\n\nBlue.") == "<think>\nwhy</think>\n\nBlue."
    assert shown("<think>") == "<think>"
    assert shown(f"{header}Blue.STOP more") == "Blue."
    assert shown("Blue.") == "Blue."
    assert shown(f" {header} {header}") == header, "only at the beginning"
