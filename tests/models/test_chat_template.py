"""The tokens of a conversation are those that its model sees: end of turn, first token of an answer, all texts, one date."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from paretune.core.errors import DataError, ModelError
from paretune.data.rows import Message
from paretune.models.language_model import LanguageModel, load
from support.chat_models import CHATML, DATED, LLAMA2, LLAMA3, PHI3, write_chat_model

QUESTION = (Message("user", "why"),)
IM = ("<|im_start|>", "<|im_end|>")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))


def read(folder: Path, template: str | None, **settings: object) -> LanguageModel:
    return load(str(write_chat_model(folder, template, **settings)), "float32", "cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    ("template", "eos", "added", "end"),
    [
        (PHI3, "<|endoftext|>", ("<|user|>", "<|assistant|>", "<|end|>"), "<|end|>"),
        (LLAMA3, "<|end_of_text|>", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>"),
        (CHATML, "<|endoftext|>", IM, "<|im_end|>"),
        (CHATML, "<|im_end|>", ("<|im_start|>",), "<|im_end|>"),
        (LLAMA2, "</s>", (), "</s>"),
        (None, "</s>", (), "</s>"),
    ],
    ids=["phi3", "llama3", "chatml", "chatml-eos", "llama2", "none"],
)
def test_an_answer_ends_with_what_the_template_writes(
    tmp_path: Path, template: str, eos: str, added: tuple[str, ...], end: str, special: bool
) -> None:
    lm = read(tmp_path, template, eos=eos, added=added, special=special)
    assert lm.tokenizer.convert_ids_to_tokens(lm.turn_end) == end
    assert lm.encode_response("red")[-1] == lm.turn_end
    assert {lm.turn_end, lm.tokenizer.eos_token_id} <= lm.stops


def test_a_marker_that_is_no_token_is_said_and_eos_ends_the_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lm = read(tmp_path, CHATML, eos="</s>")
    assert lm.turn_end == lm.tokenizer.eos_token_id
    assert "'<|im_end|>', which is no single token" in caplog.text


@pytest.mark.parametrize(
    ("template", "added"), [(None, ()), (LLAMA2, ()), (CHATML, IM), (CHATML, ()), (LLAMA3, ("<|eot_id|>",))]
)
@pytest.mark.parametrize("answer", ["red red", "a", "\nred", ""])
def test_prompt_and_answer_are_the_tokens_of_the_whole_text(
    tmp_path: Path, template: str | None, added: tuple[str, ...], answer: str
) -> None:
    lm = read(tmp_path, template, eos="</s>", added=added)
    ids = lm.encode_prompt(QUESTION) + lm.encode_response(answer, truncated=True)
    messages = [{"role": "user", "content": "why"}, {"role": "assistant", "content": answer}]
    text = str(lm.tokenizer.apply_chat_template(messages, tokenize=False))
    if template is not LLAMA3:
        assert text.startswith(lm.tokenizer.decode(ids))
    if answer.strip() and not answer.startswith("\n"):
        whole = lm.tokenizer(text, add_special_tokens=lm.template.lacks_bos).input_ids
        assert whole[: len(ids)] == ids


def test_the_template_of_models_without_one_ends_before_the_space_of_the_answer(tmp_path: Path) -> None:
    lm = read(tmp_path, None, eos="</s>")
    assert lm.tokenizer.decode(lm.encode_prompt(QUESTION)).endswith("Assistant:")
    assert lm.tokenizer.convert_ids_to_tokens(lm.encode_response("red")) == ["Ġred", "</s>"]
    assert lm.encode_response(" red") == lm.encode_response("red"), "a space of the text is not written twice"


@pytest.mark.parametrize(
    ("template", "prompt", "message"),
    [
        (
            "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}",
            (Message("system", "be kind"), *QUESTION),
            "does not write the text of the role system, 'be kind'",
        ),
        (
            "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ messages[0]['content'] }}",
            QUESTION,
            "writes 2 times the text of the role user, 'why'",
        ),
        (
            "{{ messages[-1]['content'] }}",
            (*QUESTION, Message("assistant", "so"), Message("user", "and then")),
            "does not write the text of the role user, 'why'",
        ),
        (
            "{% for m in messages %}{{ m['content'][:40] }}{% endfor %}",
            (Message("user", "long " * 20),),
            "does not write the text of the role user, 'long long",
        ),
    ],
    ids=["system", "repeated", "earlier turns", "cut"],
)
def test_a_template_that_drops_or_repeats_text_is_refused_with_the_text(
    tmp_path: Path, template: str, prompt: tuple[Message, ...], message: str
) -> None:
    lm = read(tmp_path, template, eos="</s>")
    with pytest.raises(DataError, match=message):
        lm.encode_prompt(prompt)


def test_a_template_for_parts_of_contents_is_refused_when_the_model_is_loaded(tmp_path: Path) -> None:
    parts = "{% for m in messages %}{% for p in m['content'] %}{{ p.text }}{% endfor %}{% endfor %}"
    with pytest.raises(ModelError, match="does not write the text of an answer"):
        read(tmp_path, parts, eos="</s>")


def test_a_template_that_leaves_out_reasoning_of_earlier_turns_is_fine(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['content'].split('</think>')[-1] }};{% endfor %}"
    lm = read(tmp_path, template, eos="</s>")
    lm.encode_prompt((*QUESTION, Message("assistant", "<think>hm</think>so"), Message("user", "and")))


def test_a_broken_template_is_refused_when_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the chat template of .* refuses the prompt"):
        read(tmp_path, "{% for m in messages %}{{ m['content'] }", eos="</s>")


def test_a_model_with_a_date_writes_that_date(tmp_path: Path) -> None:
    lm = read(tmp_path, DATED, eos="</s>", added=IM)
    assert lm.template.is_dated
    dated = replace(lm, date=datetime(2026, 1, 2, 3, 4))
    assert lm.tokenizer.decode(dated.encode_prompt(QUESTION)).startswith("Now: 2026-01-02 03:04\n")


def test_white_space_around_an_answer_goes_where_the_template_takes_it_away(tmp_path: Path) -> None:
    lm = read(tmp_path, LLAMA3, eos="</s>", added=("<|eot_id|>",))
    assert lm.encode_response("\n red ") == lm.encode_response("red")
