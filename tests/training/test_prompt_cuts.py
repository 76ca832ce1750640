"""Prompts cut at their beginning: whole turns first, then words of the last one; what stays, what is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Pair
from paretune.data.rows import Message, Prompt, Row
from paretune.models.language_model import LanguageModel, load
from paretune.runs.parse import parse_config
from paretune.runs.prepare import _with_room
from paretune.training.demonstrations import Demonstration, tokenise_demonstrations
from paretune.training.lab import Lab
from paretune.training.prompt_cuts import cut_at_start
from paretune.training.token_tables import tokenise, tokenise_responses
from support.adapters import TRAINING
from support.chat_models import CHATML, write_chat_model

POSITIONS = 160


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("model")
    added = ("<|im_start|>", "<|im_end|>")
    path = write_chat_model(folder, CHATML, eos="<|im_end|>", added=added, max_position_embeddings=POSITIONS)
    return load(str(path), "float32", "cpu")


def talk(*turns: str, system: str = "") -> Prompt:
    roles = ("user", "assistant")
    messages = tuple(Message(roles[n % 2], text) for n, text in enumerate(turns))
    return (Message("system", system), *messages) if system else messages


def size(lm: LanguageModel, prompt: Prompt) -> int:
    return len(lm.encode_prompt(prompt))


def test_the_oldest_turns_go_first_and_the_rest_begins_with_a_users(lm: LanguageModel) -> None:
    prompt = talk("red " * 9, "a", "one red", "b", "last a", system="kind")
    last, two = talk("last a", system="kind"), talk("one red", "b", "last a", system="kind")
    assert cut_at_start(lm, prompt, size(lm, prompt) - 1) == two
    assert cut_at_start(lm, prompt, size(lm, two)) == two
    assert cut_at_start(lm, prompt, size(lm, two) - 1) == last


def test_words_of_the_last_turn_go_where_it_is_too_long_alone(lm: LanguageModel) -> None:
    words = [f"w{n}" for n in range(20)]
    prompt = talk("old", "b", " ".join(words), system="kind")
    for room in range(size(lm, talk("w19", system="kind")), size(lm, talk(" ".join(words), system="kind"))):
        found = cut_at_start(lm, prompt, room)
        assert found is not None and size(lm, found) <= room and found[0].content == "kind"
        kept = found[-1].content.split()
        assert kept == words[-len(kept) :] and len(found) == 2
        more = talk(" ".join(words[-len(kept) - 1 :]), system="kind")
        assert size(lm, more) > room  # no longer end of it fits
    assert cut_at_start(lm, prompt, size(lm, talk("w19", system="kind")) - 1) is None
    assert cut_at_start(lm, talk("alone"), 3) is None


def pair(prompt: Prompt, chosen: str = "a b", rejected: str = "red") -> Pair:
    return Pair(prompt, chosen, rejected, "x", 0, 0, 1, False, False, (1.0,), (1.0,))


LONG = talk("red " * 60, "a", "now answer")
SHORT = talk("now answer")


def test_pairs_keep_their_whole_responses_and_are_counted(lm: LanguageModel) -> None:
    said: list[str] = []
    unfit = pair(SHORT, "b" * 90)
    table, dropped = tokenise(lm, [pair(LONG), pair(SHORT), unfit], 64, "prompt-left", "x", said.append)
    assert (len(table), dropped) == (2, 1)
    assert table.prompts[0] == table.prompts[1] == tuple(lm.encode_prompt(SHORT))
    assert table.chosen[0] == table.chosen[1] == tuple(lm.encode_response("a b"))
    assert said == [
        "1 of 3 pairs of the objective 'x' are longer than max_tokens=64 and their prompts were cut at the beginning"
    ]


def test_responses_and_demonstrations_are_cut_alike(lm: LanguageModel) -> None:
    row = Row(LONG, ("a b", "red"), {"x": (1.0, 0.0)}, {}, (False, False))
    table, dropped = tokenise_responses(lm, ScoredDataset(("x",), (row,)), 64, "prompt-left")
    assert dropped == 0 and set(table.prompts) == {tuple(lm.encode_prompt(SHORT))}
    items = [Demonstration(LONG, "a b"), Demonstration(SHORT, "red")]
    imitated, _ = tokenise_demonstrations(lm, items, 64, "prompt-left")
    assert imitated.prompts[0] == imitated.prompts[1]


def test_the_report_has_how_many_were_cut(lm: LanguageModel, tmp_path: Path) -> None:
    lab = Lab(lm, tmp_path, replace(TRAINING, max_tokens=64), too_long="prompt-left")
    lab.pair_table([pair(LONG), pair(SHORT)], "x")
    assert lab.left_out == [
        "1 of 2 pairs of the objective 'x' are longer than max_tokens=64 and their prompts were cut at the beginning"
    ]


def test_held_out_prompts_leave_room_for_an_answer(lm: LanguageModel, tmp_path: Path) -> None:
    long = talk("red " * 200, "a", "now answer")
    rows = tuple(Row(prompt, (), {}, {}, ()) for prompt in (long, SHORT))
    config = parse_config(
        {"data": {"source": "x.jsonl", "too_long": "prompt-left"}, "sampling": {"max_new_tokens": 100}}
    )
    lab = Lab(lm, tmp_path)
    kept = _with_room(ScoredDataset((), rows), config, lab, "test")
    assert [row.prompt for row in kept.rows] == [SHORT, SHORT]
    assert "0 were left out, 1 were cut at their beginning" in lab.left_out[-1]
