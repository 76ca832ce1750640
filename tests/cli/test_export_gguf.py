"""``paretune export --format gguf``: blocks with the commands that serve them, one LoRA at a preference, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretune.models.language_model import LanguageModel, load
from paretune.policies.gguf_export import Blocks
from paretune.policies.policy import Policy
from support.adapters import random_adapter
from support.command import call
from support.tiny_models import byte_tokenizer, write_random

pytest.importorskip("gguf")
OBJECTIVES = ("short", "good")


@pytest.fixture
def run(lm: LanguageModel, tmp_path: Path) -> Path:
    """A run with a soup and a mixture."""
    adapters = [random_adapter(lm, seed) for seed in (0, 1)]
    for policy in (
        Policy.soup("soup", lm, OBJECTIVES, adapters),
        Policy.mod("mod", lm, OBJECTIVES, adapters),
    ):
        policy.save(tmp_path / "run" / "policies" / policy.name)
    return tmp_path / "run"


def export(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str, str]:
    code, out, err = call(monkeypatch, capsys, "export", *words)
    return code, " ".join(out.split()), " ".join(err.split())


def test_blocks_come_with_the_commands_that_serve_them(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, told, err = export(monkeypatch, capsys, run, out, "--policy", "soup", "--format", "gguf")
    assert code == 0, err
    assert Blocks.read(out).names == ("soup-short", "soup-good")
    assert f"--lora {out / 'soup-short.gguf'} --lora {out / 'soup-good.gguf'}" in told
    assert f"--upstream-kind llama.cpp --manifest {out / 'blocks.json'}" in told


def test_one_lora_at_one_preference(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "one"
    words = (run, out, "--policy", "soup", "--format", "gguf", "-p", "short=0.4,good=0.6")
    code, told, err = export(monkeypatch, capsys, *words)
    assert code == 0, err
    assert f"llama-server -m BASE.gguf --lora {out / 'soup.gguf'}" in told
    assert sorted(file.name for file in out.iterdir()) == ["paretune.json", "soup.gguf"]


@pytest.mark.parametrize("form", ["f32", "q8_0"])
def test_a_base_model_of_safetensors_is_written_beside_its_blocks(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load(str(write_random(tmp_path / "model", "qwen2", byte_tokenizer("qwen2"))), "float32", "cpu")
    soup = Policy.soup("soup", model, OBJECTIVES, [random_adapter(model, seed) for seed in (0, 1)])
    soup.save(tmp_path / "run" / "policies" / "soup")
    out = tmp_path / "out"
    words = ("--policy", "soup", "--format", "gguf", "--with-base", "--base-type", form)
    code, told, err = export(monkeypatch, capsys, tmp_path / "run", out, *words)
    assert code == 0, err
    assert f"llama-server -m {out / 'base.gguf'}" in told
    assert "send texts in NFC" in err
    assert (out / "base.gguf").read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "soup", "--format", "gguf", "--grid", "3"], "leave --grid out"),
        (["--policy", "soup", "--with-base", "-p", "short=1"], "give --format gguf with it"),
        (["--policy", "soup", "--format", "gguf", "--with-base"], "is of the type WordLevel"),
        (
            ["--policy", "soup", "--format", "gguf", "--with-base", "--base-type", "f16"],
            "leave --with-base out, and convert the model with llama.cpp's own tool convert_hf_to_gguf.py",
        ),
        (["--policy", "soup", "--format", "gguf", "--base-type", "f16"], "give --with-base with it"),
        (
            ["--policy", "soup", "--format", "gguf", "--with-base", "--base-type", "q8"],
            "expected one of copy, f32",
        ),
        (["--policy", "mod", "--format", "gguf"], "mixes next-token distributions"),
        (["--policy", "soup", "--format", "gguff"], "expected lora, gguf or dense"),
        (["--policy", "soup"], "give either --preference or --grid"),
    ],
)
def test_what_cannot_be_is_one_message(
    run: Path, tmp_path: Path, words: list[str], message: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    code, _, err = export(monkeypatch, capsys, run, tmp_path / "out", *words)
    assert code == 2 and message in err, err
    assert not (tmp_path / "out").exists()
