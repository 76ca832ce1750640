"""Chat templates that think: their arguments, what stands before an answer, and texts that are read and written alike."""

from __future__ import annotations

import re
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

from paretune.core.errors import DataError, ModelError
from paretune.core.thought import MARKERS, is_unfinished, without_thought
from paretune.data.rows import Message
from paretune.models.language_model import LanguageModel, load
from support.chat_models import write_chat_model

QUESTION = (Message("user", "why"),)
SYSTEM = (Message("system", "be kind"), *QUESTION)
TEMPLATES = files("trl") / "chat_templates"
TEXT = (
    "cohere", "cohere2", "deepseek_r1_distill", "deepseekv3", "gemma", "gemma3", "gemma4_v5", "glm4moe", "gptoss", "lfm2_v2",
    "llama3", "llama3_1", "llama3_2", "nemotron_3_nano", "phi3", "phi3_5", "qwen2_5", "qwen3", "qwen3_5_nothink", "qwen3_5_think",
    "qwen3_6", "qwen3_8", "qwen3_instruct_2507",
)  # fmt: skip
"""Templates of language models among those that TRL brings; the others are of models that see."""
EMPTY = {
    "qwen3": "<think>\n\n</think>\n\n",
    "qwen3_5_think": "\n</think>\n\n",
    "deepseek_r1_distill": "</think>\n\n",
    "nemotron_3_nano": "</think>\n\n",
    "glm4moe": "\n<think></think>\n",
    "gptoss": "<|channel|>final<|message|>",
}
"""What stands between a prompt and an answer without thought."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))


def read(folder: Path, name: str, **options: object) -> LanguageModel:
    """Load a tiny model with a template of TRL's, whose markers are tokens: special ones where they are so in its model."""
    file = TEMPLATES / f"{name}.jinja"
    if not file.is_file():
        pytest.skip(f"TRL {version('trl')} has no such template")
    template = file.read_text(encoding="utf-8")
    markers = set(re.findall(r"<[|｜][^<>\s'\"]+[|｜]?>|</?think>|<\w+\|>|<\w+_of_turn>", template))
    thought = {"<think>", "</think>"}
    eos = next((m for m in ("<|return|>", "<|im_end|>", "<|eot_id|>", "<turn|>") if m in markers), "</s>")
    model = write_chat_model(folder / name, template, eos=eos, added=sorted(markers - thought), special=True)
    if thought & markers:
        from transformers import AddedToken, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in sorted(thought)])
        tokenizer.save_pretrained(model)
    return load(str(_wide(model)), "float32", "cpu", chat_template=options)


def _wide(model: Path) -> Path:
    from support.tiny import make_tiny_llama

    make_tiny_llama(vocab_size=512, eos_token_id=None, bos_token_id=None, pad_token_id=None).save_pretrained(
        model
    )
    return model


@pytest.mark.parametrize("name", TEXT)
def test_an_answer_is_written_and_read_alike(tmp_path: Path, name: str) -> None:
    """The tokens of a response, read as those of an answer, are its text; also where the model thinks first."""
    lm = read(tmp_path, name)
    for text in ("red a red", ""):
        ids = lm.encode_response(text)
        assert ids[-1] == lm.turn_end
        assert lm.decode(ids[:-1]) == text
    assert lm.template.header == EMPTY.get(name, lm.template.header)
    if lm.template.header or lm.template.begun:
        begin, end = next(
            (b, e)
            for b, e in MARKERS
            if b in lm.template.header + lm.template.begun or (name == "gptoss" and "analysis" in b)
        )
        thinking = f"{begin}\na red a\n{end}\n\nred"
        ids = lm.encode_response(thinking)
        assert lm.decode(ids[:-1]) == thinking
        whole = lm.text(lm.encode_prompt(QUESTION)) + lm.text(ids)
        assert whole.count(begin) == 1, "the thought that a prompt begins is not begun twice"
        assert without_thought(lm.decode(ids[:-1])) == "red"
        cut = lm.decode(lm.encode_response(f"{begin}\na red", truncated=True))
        assert is_unfinished(cut) and without_thought(cut) == ""


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "glm4moe", "nemotron_3_nano"])
def test_thinking_is_turned_off_by_an_argument(tmp_path: Path, name: str) -> None:
    thinks, speaks = read(tmp_path / "a", name), read(tmp_path / "b", name, enable_thinking=False)
    assert "</think>" in speaks.tokenizer.decode(speaks.encode_prompt(QUESTION))
    assert "</think>" not in thinks.tokenizer.decode(thinks.encode_prompt(QUESTION))
    assert not speaks.template.begun
    assert speaks.decode(speaks.encode_response("red")[:-1]) == "red"
    assert speaks.fingerprint != thinks.fingerprint, "cached numbers of one are not those of the other"
    assert speaks.fingerprints[0] == speaks.fingerprint
    assert len(speaks.encode_response("red")) <= len(thinks.encode_response("red"))


def test_an_argument_that_the_template_does_not_know_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"'enable_thinkin' is no argument of the chat template .*'enable_thinking'"
    ):
        read(tmp_path / "a", "qwen3", enable_thinkin=False)
    with pytest.raises(ModelError, match=r"'add_generation_prompt' is no argument"):
        read(tmp_path / "b", "qwen3", add_generation_prompt=False)
    with pytest.raises(ModelError, match=r"'enable_thinking' is no argument .* it has no arguments"):
        read(tmp_path / "c", "phi3", enable_thinking=False)


def test_a_template_without_a_role_is_named_with_the_text(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"has no place for the role system, which says 'be kind' \(.*\); put the text into a user turn",
    ):
        read(tmp_path / "a", "gemma").encode_prompt(SYSTEM)
    strict = (
        "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    lm = load(str(write_chat_model(tmp_path / "b", strict, eos="</s>")), "float32", "cpu")
    with pytest.raises(DataError, match=r"has no place for the role tool, which says '42' \(no tools\)"):
        lm.encode_prompt((*QUESTION, Message("tool", "42")))


@pytest.mark.parametrize("name", ["idefics3", "smolvlm", "llava_next"])
def test_a_template_of_a_model_that_sees_is_refused_when_it_is_loaded(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ModelError, match=r"chat template of .* (does not write the text of an answer|refuses)"
    ):
        read(tmp_path, name)
