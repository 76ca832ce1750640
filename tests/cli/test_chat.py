"""The chat in the terminal, driven through a pipe as by a keyboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prompt_toolkit import PromptSession
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from paretune.cli.chat import Knob, converse, sampling_of
from paretune.core.preference import Preference
from paretune.data.rows import Prompt
from support import records
from support.serve_world import OBJECTIVES, make_surface

UP, DOWN = "\x1b[5~", "\x1b[6~"


def knob(preference: str = "short=0.5,good=0.5", objectives: tuple[str, ...] = OBJECTIVES) -> Knob:
    surface = make_surface() if objectives == OBJECTIVES else None
    return Knob(objectives, Preference.parse(preference, objectives), surface, lambda p: p)


def talk(keys: str, used: Knob) -> tuple[list[tuple[Prompt, Preference]], str]:
    """Type ``keys``; return what was asked and what was written."""
    asked: list[tuple[Prompt, Preference]] = []
    written: list[str] = []

    def answer(prompt: Prompt, preference: Preference) -> Iterator[str]:
        asked.append((prompt, preference))
        yield "fine"
        yield " day"

    with create_pipe_input() as pipe:
        pipe.send_text(keys + "\x04")
        converse(PromptSession(input=pipe, output=DummyOutput()), used, answer, written.append)
    return asked, "".join(written)


def test_keys_turn_the_dial_and_the_last_message_is_answered_anew() -> None:
    used = knob()
    start = used.position
    asked, written = talk(f"hello\r{UP}{UP}{UP}/again\rwhy\r/p short=0.1,good=0.9\r/again\r", used)
    assert [[m.content for m in prompt] for prompt, _ in asked] == [
        ["hello"],
        ["hello"],
        ["hello", "fine day", "why"],
        ["hello", "fine day", "why"],
    ]
    assert asked[0][1]["short"] == 0.5 and asked[1][1]["short"] > 0.55 and asked[3][1]["short"] == 0.1
    assert written.count("fine day\n") == 4 and used.position < start
    assert written.count("fine day\n[short=0.5,good=0.5]\n") == 1, "each answer says its preference"
    assert written.count("fine day\n[short=0.1,good=0.9]\n") == 1


def test_mistakes_are_told_and_the_chat_goes_on() -> None:
    asked, written = talk("/p shrt=1\r/what\r\r/again\r/new\rhello\r", knob())
    assert "did you mean 'short'" in written and "PageUp" in written and len(asked) == 1


def test_equal_turns_are_equal_steps_of_outcome() -> None:
    used = knob("short=0,good=1")
    surface = make_surface()
    outcomes = [surface.outcomes(used.preference.array()[None])[0]]
    for _ in range(20):
        used.turn(1)
        outcomes.append(surface.outcomes(used.preference.array()[None])[0])
    steps = np.linalg.norm(np.diff(np.array(outcomes), axis=0) / surface.scale, axis=1)
    assert used.preference["short"] == 1 and steps.max() / steps.min() < 1.3


def test_three_objectives_are_weighed_one_at_a_time() -> None:
    used = knob("a=0.2,b=0.6,c=0.2", ("a", "b", "c"))
    used.turn(4)
    assert used.preference.weights == pytest.approx((0.4, 0.45, 0.15))
    used.choose_next()
    used.turn(40)
    assert used.preference.weights == (0.0, 1.0, 0.0) and " b " in used.status()
    used.turn(-2)
    assert used.preference.weights == pytest.approx((0.05, 0.9, 0.05))


def test_the_last_message_is_replaced_and_a_system_prompt_belongs_to_the_conversation() -> None:
    keys = "/edit x\r/edit\rhello\r/system Be kind.\r/edit good  day\rwhy\r/system\r/again\r/new\rhello\r"
    asked, written = talk(keys, knob())
    system = ("system", "Be kind.")
    assert [[(m.role, m.content) for m in prompt] for prompt, _ in asked] == [
        [("user", "hello")],
        [system, ("user", "good  day")],
        [system, ("user", "good  day"), ("assistant", "fine day"), ("user", "why")],
        [("user", "good  day"), ("assistant", "fine day"), ("user", "why")],
        [("user", "hello")],
    ]
    assert "/edit: there is no message to replace yet" in written and "/edit: there is no text" in written
    assert "the system prompt holds from the next answer on" in written and "no system prompt" in written


def test_a_conversation_is_saved_with_the_preference_of_each_answer(tmp_path: Path) -> None:
    file, other = tmp_path / "talk.json", tmp_path / "mine.json"
    other.write_text("mine")
    keys = f"/system Be kind.\rhello\r/save {file}\r/p short=0.1,good=0.9\rwhy\r/save {file}\r/save {other}\r/save\r"
    _, written = talk(keys, knob())
    assert json.loads(file.read_text()) == {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "fine day", "preference": {"short": 0.5, "good": 0.5}},
            {"role": "user", "content": "why"},
            {"role": "assistant", "content": "fine day", "preference": {"short": 0.1, "good": 0.9}},
        ]
    }
    assert written.count(f"saved {file}\n") == 2, "what this chat saved it may save again"
    assert f"{other}: exists already" in written and other.read_text() == "mine"
    assert "/save: there is no name of a file" in written
    assert sorted(tmp_path.iterdir()) == [other, file]
    saved = file.read_text()
    _, written = talk(f"hello\r/save {file}\r", knob())
    assert f"{file}: exists already" in written and file.read_text() == saved, "another chat's"


def test_answers_are_sampled_as_the_front_was_measured(tmp_path: Path) -> None:
    assert sampling_of(tmp_path, None, None, None).identity() == {
        "max_new_tokens": 256,
        "temperature": 0.7,
        "top_p": 0.95,
    }
    sampling = {"max_new_tokens": 80, "temperature": 0.5, "top_p": 0.9}
    point = records.point({"short": 0.5, "good": 0.5}, [0.0, 0.0])
    facts = records.record(OBJECTIVES, [records.policy("soup", [point])], sampling=sampling)
    (tmp_path / "front.json").write_text(json.dumps(facts))
    assert sampling_of(tmp_path, None, None, None).identity() == sampling
    assert sampling_of(tmp_path, 7, 0.0, 1.0).identity() == {
        "max_new_tokens": 7,
        "temperature": 0.0,
        "top_p": 1.0,
    }
