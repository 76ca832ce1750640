"""Texts beyond ``train.max_tokens`` or the model's positions are left out, cut or refused, and counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from paretune.core.errors import DataError, TrainingError
from paretune.core.sampling import Sampling
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Pair
from paretune.data.rows import Message, Row
from paretune.generation.generate import generate, response_logps
from paretune.models.language_model import LanguageModel, load
from paretune.runs.parse import parse_config
from paretune.runs.prepare import _with_room
from paretune.training.demonstrations import Demonstration, tokenise_demonstrations
from paretune.training.lab import Lab
from paretune.training.token_tables import tokenise, tokenise_responses
from support.chat_models import write_chat_model

POSITIONS = 64
PROMPT = (Message("user", "a"),)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("small")
    return load(
        str(write_chat_model(folder, None, eos="</s>", max_position_embeddings=POSITIONS)), "float32", "cpu"
    )


def pair(words: int, prompt: str = "a") -> Pair:
    return Pair(
        (Message("user", prompt),), "red " * words + "a", "a", "x", 0, 0, 1, False, False, (1.0,), (1.0,)
    )


def test_by_default_pairs_beyond_the_positions_are_left_out_and_counted(small: LanguageModel) -> None:
    table, dropped = tokenise(small, [pair(3), pair(100), pair(5)], 1024)
    assert (len(table), dropped) == (2, 1)
    with pytest.raises(
        TrainingError, match=r"all 1 pairs are longer than the 64 positions of .*; give shorter texts"
    ):
        tokenise(small, [pair(100)], 1024)
    with pytest.raises(
        TrainingError, match=r"all 1 pairs are longer than max_tokens=30 and none is left; raise"
    ):
        tokenise(small, [pair(50)], 30)


def test_a_row_whose_widest_pair_is_too_long_gives_its_next_one(small: LanguageModel, tmp_path: Path) -> None:
    """The texts of best and worst score are too long; the pair between the others is as good, and the report counts the rows."""
    long, scores = "red " * 100, {"x": (9.0, 2.0, 1.0, 0.0)}
    rows = [Row(PROMPT, (long, f"b{k}", f"c{k}", long + "b"), scores, {}, (False,) * 4) for k in range(3)]
    rows.append(Row(PROMPT, (long, "d"), {"x": (1.0, 0.0)}, {}, (False, False)))
    data = ScoredDataset(("x",), tuple(rows))
    lab = Lab(small, tmp_path)
    for table in (
        lab.train_table(lab.pairs(data, "x", "extremes")),
        lab.pair_table(lab.pairs(data, "x", "extremes")),
    ):
        assert [(pair.row, pair.chosen, pair.rejected) for pair in table.pairs] == [
            (k, f"b{k}", f"c{k}") for k in range(3)
        ]
    assert "the widest pairs of 3 rows are longer than the 64 positions of" in lab.left_out[-1]
    assert lab.left_out[0].startswith("1 of 4 pairs are longer than")
    few = Lab(small, tmp_path, replace(lab.training, steps=1, batch_pairs=2, accumulate=1))
    assert len(few.train_table(few.pairs(data, "x", "extremes"))) == 2
    cut = Lab(small, tmp_path, too_long="cut")
    assert cut.pair_table(cut.pairs(data, "x", "extremes")).pairs[0].chosen == long


def test_neighbours_of_a_response_that_is_too_long_are_paired(small: LanguageModel, tmp_path: Path) -> None:
    """Of b > LONG > c > d, the pairs without a response in between are b > c and c > d once LONG is out."""
    long = "red " * 100
    rows = [Row(PROMPT, ("b", long, "c", "d"), {"x": (9.0, 2.0, 1.0, 0.0)}, {}, (False,) * 4)]
    rows.append(Row(PROMPT, ("e", "f", "g"), {"x": (2.0, 1.0, 0.0)}, {}, (False,) * 3))
    rows.append(Row(PROMPT, (long, "h"), {"x": (1.0, 0.0)}, {}, (False,) * 2))
    rows.append(Row(PROMPT, (long, long + "i", "k"), {"x": (2.0, 1.0, 0.0)}, {}, (False,) * 3))
    data = ScoredDataset(("x",), tuple(rows))
    lab = Lab(small, tmp_path)
    for table in (
        lab.train_table(lab.pairs(data, "x", "adjacent"), "x"),
        lab.pair_table(lab.pairs(data, "x", "adjacent"), "x"),
    ):
        assert [(pair.chosen, pair.rejected) for pair in table.pairs] == [
            ("b", "c"),
            ("c", "d"),
            ("e", "f"),
            ("f", "g"),
        ]
    limit = "are longer than the 64 positions of"
    assert lab.left_out[0].startswith(f"1 of 5 pairs of the objective 'x' {limit}")
    assert lab.left_out[1].startswith(f"some responses of 2 rows of the objective 'x' {limit}")
    assert lab.left_out[1].endswith("and the others are paired without them")
    cut = Lab(small, tmp_path, too_long="cut")
    assert [pair.rejected for pair in cut.pairs(data, "x", "adjacent")][:3] == [long, "c", "d"]


def test_texts_are_cut_at_their_end_and_teach_no_end_of_turn(
    small: LanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    table, dropped = tokenise(small, [pair(3), pair(100), pair(3, "a" * 80)], 1024, "cut")
    assert (len(table), dropped) == (2, 1), "a prompt is never cut"
    assert len(table.prompts[1]) + len(table.chosen[1]) == POSITIONS
    assert table.chosen[1][-1] != small.turn_end == table.chosen[0][-1]
    assert "1 of 3 pairs are longer than the 64 positions" in caplog.text


def test_texts_are_refused_with_their_place(small: LanguageModel) -> None:
    with pytest.raises(
        TrainingError,
        match=r"row 0 \(prompt 'a'\): \d+ tokens .* set data.too_long to drop, cut or prompt-left",
    ):
        tokenise(small, [pair(100)], 1024, "refuse")
    row = Row(PROMPT, ("red " * 100, "a"), {"x": (1.0, 0.0)}, {}, (False, False), "d.jsonl:7")
    with pytest.raises(TrainingError, match=r"d.jsonl:7 \(response 0\): \d+ tokens"):
        tokenise_responses(small, ScoredDataset(("x",), (row,)), 1024, "refuse")
    with pytest.raises(TrainingError, match=r"d.jsonl:7: \d+ tokens"):
        tokenise_demonstrations(
            small, [Demonstration(PROMPT, "red " * 100, where="d.jsonl:7")], 1024, "refuse"
        )
    assert len(tokenise_responses(small, ScoredDataset(("x",), (row,)), 1024)[0]) == 1
    assert len(tokenise_demonstrations(small, [Demonstration(PROMPT, "red " * 100)], 1024, "cut")[0]) == 1


def test_answers_end_at_the_last_position(small: LanguageModel, caplog: pytest.LogCaptureFixture) -> None:
    prompt = small.encode_prompt(PROMPT)
    (answer,) = generate(small, [prompt], Sampling(600), [0])
    assert len(prompt) + len(answer.tokens) <= POSITIONS
    assert "1 of 1 prompts leave fewer than max_new_tokens=600 of the 64 positions" in caplog.text
    with pytest.raises(DataError, match=r"a prompt of 64 tokens, .* leaves none of the 64 positions"):
        generate(small, [[5] * POSITIONS], Sampling(4), [0])
    with pytest.raises(DataError, match=r"a text of 65 tokens with its prompt"):
        response_logps(small, [([5] * 60, [[5], [5] * 5])])


@pytest.mark.parametrize(
    ("rule", "kept", "said"),
    [
        (
            "drop",
            ["d:0"],
            "2 of 3 prompts (test) leave fewer than sampling.max_new_tokens=40 of the model's 64 positions: 2 were",
        ),
        ("cut", ["d:0", "d:1"], "1 were left out, 1 answers end at the last position"),
    ],
)
def test_held_out_prompts_without_room_for_an_answer(
    small: LanguageModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rule: str,
    kept: list[str],
    said: str,
) -> None:
    rows = tuple(
        Row((Message("user", "a" * length),), (), {}, {}, (), f"d:{n}")
        for n, length in enumerate((1, 20, 80))
    )
    lab = Lab(small, tmp_path)
    values = {"sampling": {"max_new_tokens": 40}, "data": {"too_long": rule}}
    part = _with_room(ScoredDataset((), rows), parse_config(values), lab, "test")
    assert [row.source for row in part.rows] == kept
    assert said in " ".join(capsys.readouterr().err.split())
    refuse = parse_config({**values, "data": {"too_long": "refuse"}})
    with pytest.raises(
        DataError, match=r"d:1: \d+ tokens; 2 of 3 prompts \(test\) .* lower sampling.max_new_tokens"
    ):
        _with_room(ScoredDataset((), rows), refuse, lab, "test")
