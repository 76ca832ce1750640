"""The tokens of a conversation are those that its model sees: end of turn, first token of an answer, all texts, one date."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from paretune.core.errors import DataError, ModelError
from paretune.data.pairs import Pair
from paretune.data.rows import Message
from paretune.models.language_model import LanguageModel, load
from paretune.training.demonstrations import Demonstration, tokenise_demonstrations
from paretune.training.token_tables import tokenise
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


def ending_in(folder: Path, *tokens: str) -> None:
    """Have a tokenizer write a text between special tokens; "text" stands for it."""
    file = folder / "tokenizer.json"
    values = json.loads(file.read_text())
    ids = {token["content"]: token["id"] for token in values["added_tokens"]}
    text, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    values["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [text if t == "text" else {"SpecialToken": {"id": t, "type_id": 0}} for t in tokens],
        "pair": [text, other],
        "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in tokens if t != "text"},
    }
    file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("tokens", "first"),
    [
        (("text", "</s>"), "U"),
        (("<|begin|>", "text", "</s>"), "<|begin|>"),
        (("<|begin|>", "text"), "<|begin|>"),
    ],
)
def test_a_tokenizer_that_ends_texts_does_not_end_the_prompt_before_its_answer(
    tmp_path: Path, tokens: tuple[str, ...], first: str
) -> None:
    folder = write_chat_model(tmp_path, None, eos="</s>")
    ending_in(folder, *tokens)
    lm = load(str(folder), "float32", "cpu")
    for ids in (lm.encode_prompt(QUESTION), lm.encode_text("User: why\n\nAssistant:")):
        read = lm.tokenizer.convert_ids_to_tokens(ids)
        assert (read[0], read[-1]) == (first, ":") and "</s>" not in read


@pytest.mark.parametrize(
    "call",
    [
        "strftime_now ( '%d %b %Y' )",
        "strftime_now(form)",
        "strftime_now(format=form)",
        "strftime_now('%d %b' + ' %Y')",
        'strftime_now("%-d %b %Y") | replace("2 Jan", "02 Jan")',
        "strftime_now(form) if strftime_now is defined else '26 Jul 2024'",
    ],
)
def test_a_date_is_fixed_however_the_template_asks_for_it(tmp_path: Path, call: str) -> None:
    template = "  {% set form = '%d %b %Y' %}\nNow: {{ " + call + " }}\n" + CHATML
    lm = read(tmp_path, template, eos="</s>", added=IM)
    assert lm.template.is_dated
    dated = replace(lm, date=datetime(2001, 1, 2, 3, 4))
    now, then = (lm.tokenizer.decode(each.encode_prompt(QUESTION)) for each in (lm, dated))
    assert then.startswith("Now: 02 Jan 2001\n") and now.startswith("Now: ")
    assert then.partition("\n")[2] == now.partition("\n")[2]


def test_a_macro_of_the_date_leaves_the_white_space_of_a_template_as_it_is(tmp_path: Path) -> None:
    lm = read(tmp_path, "\n  {{ strftime_now('100%% of %Y') }}\n" + CHATML, eos="</s>", added=IM)
    year = datetime.now().year
    dated = replace(lm, date=datetime(year, 1, 2))
    assert dated.encode_prompt(QUESTION) == lm.encode_prompt(QUESTION)
    assert lm.tokenizer.decode(lm.encode_prompt(QUESTION)).startswith(f"\n  100% of {year}\n")


def test_a_prompt_that_the_template_refuses_is_named_by_its_place(tmp_path: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    lm = read(tmp_path, template, eos="</s>", added=IM)
    prompt = (Message("system", "be kind"), *QUESTION)
    told = (
        r"has no place for the role system, which says 'be kind' \(no system\); put the text into a user turn"
    )
    with pytest.raises(DataError, match=rf"^d\.jsonl:7: the chat template of .*{told}"):
        lm.encode_prompt(prompt, "d.jsonl:7")
    with pytest.raises(DataError, match=r"^d\.jsonl:7 \(response 0\): the chat template of"):
        tokenise_demonstrations(lm, [Demonstration(prompt, "red", where="d.jsonl:7 (response 0)")], 64)
    pair = Pair(prompt, "red", "a", "x", 3, 0, 1, False, False, (1.0,), (1.0,))
    with pytest.raises(DataError, match=r"^row 3 \(prompt 'why'\): the chat template of"):
        tokenise(lm, [pair], 64)


@pytest.mark.parametrize("special", [True, False])
def test_responses_with_the_text_of_an_end_of_turn_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, special: bool
) -> None:
    lm = read(tmp_path, CHATML, eos="</s>", added=IM, special=special)
    pairs = [
        Pair(QUESTION, text, "a", "x", n, 0, 1, False, False, (1.0,), (1.0,))
        for n, text in enumerate(("red<|im_end|>", "red", "red</s>"))
    ]
    tokenise(lm, pairs, 64)
    assert "2 of 6 responses hold the text of a special token, such as '<|im_end|>'" in caplog.text
    caplog.clear()
    tokenise(lm, pairs[1:2], 64)
    assert "special token" not in caplog.text


@pytest.mark.parametrize("eos", ['"x"', '["</s>"]', "true"])
def test_an_end_that_is_no_number_of_a_token_is_refused_when_the_model_is_loaded(
    tmp_path: Path, eos: str
) -> None:
    folder = write_chat_model(tmp_path, None, eos="</s>")
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": {eos}}}')
    with pytest.raises(ModelError, match=r"generation_config\.json|cannot load the model"):
        load(str(folder), "float32", "cpu")
