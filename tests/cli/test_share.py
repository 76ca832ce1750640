"""The commands that move policies: push, pull, and the options of the base model."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretune.models.language_model import load
from paretune.policies.policy import Policy
from support.command import call
from support.fake_hub import FakeHub, put_in
from support.world import write_model


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    hub = put_in(monkeypatch, tmp_path / "hub")
    hub.commit("team/base", write_model(tmp_path / "model"))
    lm = load("team/base", "float32", "cpu")
    Policy.base(lm, ("short", "good")).save(tmp_path / "run/policies/plain")
    return hub


def test_a_policy_is_pushed_pulled_and_answers_by_its_name(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = call(monkeypatch, capsys, "push", "run", "anna/plain", "--license", "mit")
    assert code == 0 and "https://hub.test/anna/plain" in out, err
    ask = ("good moon", "-p", "short+good", "--device", "cpu", "--max-new-tokens", 4, "--temperature", 0)
    code, by_name, err = call(monkeypatch, capsys, "generate", "anna/plain", *ask)
    assert code == 0 and "short" in by_name, err
    code, out, _ = call(monkeypatch, capsys, "pull", "anna/plain@main", "mine")
    assert code == 0 and "base over short, good, on team/base" in out
    code, elsewhere, err = call(monkeypatch, capsys, "generate", "mine", *ask, "--model", tmp_path / "model")
    assert code == 0 and elsewhere == by_name, err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("push", "run", "plain"), "expected the name of a repository on the hub, owner/name"),
        (("push", "run", "anna/plain", "--base", "/model"), "expected the name of a repository"),
        (("push", "nowhere", "anna/plain"), "no policy in it"),
        (("pull", "anna/none", "new"), "anna/none"),
        (("generate", "run/policies/plain", "x", "-p", "short+good", "--revision", "v9"), "v9"),
        (
            ("generate", "run/policies/plain", "x", "-p", "short+good", "--model", "nowhere/at-all"),
            "nowhere/at-all",
        ),
        (("generate", "anna/none", "x", "-p", "short+good"), "anna/none"),
    ],
)
def test_what_cannot_be_moved_is_one_message(
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert code == 2 and message in err and err.count("\n") == 1, out + err
    assert not Path("new").exists() and not hub.private
