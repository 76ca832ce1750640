"""A base model that cannot be used is refused when it is loaded, by one message that says what is wrong and what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BloomConfig, BloomForCausalLM, MambaConfig, MambaForCausalLM

from paretune.core.errors import ModelError
from paretune.data.rows import Message
from paretune.models.language_model import load
from paretune.models.loading import locate
from paretune.planning.lengths import counter
from paretune.planning.shapes import shape_of
from paretune.scoring import encoder
from support.tiny_gguf import write_tiny_gguf
from support.world import write_model

WEIGHTS = "model.safetensors"
LAYER = "model.layers.1.mlp.up_proj.weight"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def write(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing layer": (
        lambda f: edit(f, lambda t: {k: v for k, v in t.items() if k != LAYER}),
        f"1 weights are missing, such as {LAYER}, and would be random",
    ),
    "fewer layers in the config": (
        lambda f: edit_config(f, num_hidden_layers=1),
        "weights such as model.layers.1.* are not used: config.json describes another model",
    ),
    "other shapes in the config": (
        lambda f: edit_config(f, intermediate_size=80),
        r"weights such as model.layers.\d.mlp.* have another shape: config.json describes another model",
    ),
    "a cut checkpoint": (
        lambda f: write(f, WEIGHTS, (f / WEIGHTS).read_bytes()[:-9]),
        r"model.safetensors: is cut, it has \d+ of \d+ bytes; copy or download it again",
    ),
    "half a header": (
        lambda f: write(f, WEIGHTS, (f / WEIGHTS).read_bytes()[:99]),
        "is cut, it ends after 99 bytes",
    ),
    "a checkpoint of noise": (
        lambda f: write(f, WEIGHTS, b"\xff" * 300),
        "is damaged or no safetensors file",
    ),
    "an empty checkpoint": (lambda f: write(f, WEIGHTS, b""), "model.safetensors: is empty"),
    "a pointer": (
        lambda f: write(f, WEIGHTS, POINTER),
        "model.safetensors: is a pointer of git-lfs .* `git lfs pull`",
    ),
    "a pointer for the tokenizer": (
        lambda f: write(f, "tokenizer.json", POINTER),
        "tokenizer.json: is a pointer of git-lfs",
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "no .*safetensors file with weights"),
    "no config": (
        lambda f: (f / "config.json").unlink(),
        "config.json: no such file; expected the folder of a model",
    ),
    "a config that is no JSON": (lambda f: write(f, "config.json", b"{"), "config.json: is no valid JSON"),
    "a config that is a list": (lambda f: write(f, "config.json", b"[]"), "config.json: holds no settings"),
    "heads that do not divide": (
        lambda f: edit_config(f, num_attention_heads=0),
        r"cannot load the model .*ZeroDivisionError.*Check config.json and the files of the tokenizer",
    ),
    "a size that is text": (
        lambda f: edit_config(f, hidden_size="64"),
        "cannot load the model .*hidden_size",
    ),
    "a function that is none": (
        lambda f: edit_config(f, hidden_act="nope"),
        "cannot load the model .*KeyError 'nope'.*Check config.json",
    ),
    "an end outside of the vocabulary": (
        lambda f: write(f, "generation_config.json", b'{"eos_token_id": [2, 26]}'),
        r"generation_config.json: eos_token_id \[2, 26\]: expected the number of a token, from 0 to 25",
    ),
    "an end outside of the vocabulary, in the config": (
        lambda f: ((f / "generation_config.json").unlink(), edit_config(f, eos_token_id=10**6)),
        "config.json: eos_token_id 1000000: expected the number of a token",
    ),
    "an end below all tokens": (
        lambda f: write(f, "generation_config.json", b'{"eos_token_id": -5}'),
        "eos_token_id -5: expected the number of a token",
    ),
    "a tokenizer of nothing": (lambda f: write(f, "tokenizer.json", b"{}"), "cannot load .*tokenizer"),
    "an unknown architecture": (
        lambda f: edit_config(f, model_type="zamba9"),
        "cannot load the model .*zamba9",
    ),
    "an index that names a missing part": (
        lambda f: write(f, WEIGHTS + ".index.json", b'{"weight_map": {"x": "model-00002.safetensors"}}'),
        "model-00002.safetensors: no such file; model.safetensors.index.json names it",
    ),
    "quantised by its config": (
        lambda f: edit_config(f, quantization_config={"quant_method": "gptq", "bits": 4}),
        "the checkpoint is quantised .*gptq.*; give the same model in one of these",
    ),
    "quantised by its numbers": (
        lambda f: edit(f, lambda t: t | {LAYER: t[LAYER].to(torch.int8)}),
        "the checkpoint is quantised .*number format I8",
    ),
    "numbers that are not finite": (
        lambda f: edit(f, lambda t: t | {LAYER: t[LAYER].index_fill(0, torch.tensor([0]), float("nan"))}),
        f"{LAYER} holds numbers that are NaN or infinite",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, fault: str) -> None:
    folder = write_model(tmp_path / "model")
    damage, message = FAULTS[fault]
    damage(folder)
    with pytest.raises(ModelError, match=message):
        load(str(folder), "float32", "cpu")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_of_somebody_else_is_not_called_damaged(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / WEIGHTS).chmod(0)
    with pytest.raises(ModelError, match="this user cannot read it"):
        load(str(folder), "float32", "cpu")


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, plain = write_model(tmp_path / "model"), Path.open

    def refused(file: Path, *arguments: object, **options: object) -> object:
        if file.name == WEIGHTS:
            raise PermissionError(13, "Permission denied")
        return plain(file, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(
        ModelError, match=r"model.safetensors: this user cannot read it \(Permission denied\)"
    ):
        load(str(folder), "float32", "cpu")


def test_a_tokenizer_beyond_the_embeddings_is_refused(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = write_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["more"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="tokens up to number 26, but the model has embeddings of 26 tokens"):
        load(str(folder), "float32", "cpu")


@pytest.mark.parametrize(
    "model",
    [
        lambda: MambaForCausalLM(
            MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=32, state_size=4)
        ),
        lambda: BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=1, n_head=2, vocab_size=32)),
    ],
    ids=["mamba", "bloom"],
)
def test_an_architecture_that_packed_batches_cannot_run_is_refused(tmp_path: Path, model: Callable) -> None:
    folder = write_model(tmp_path / "model")
    (folder / WEIGHTS).unlink()
    model().save_pretrained(folder)
    with pytest.raises(ModelError, match="this architecture is not supported"):
        load(str(folder), "float32", "cpu")


@pytest.mark.parametrize("device", ["cuda:99", "quantum", "meta", "mps"])
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, device: str) -> None:
    with pytest.raises(ModelError, match=f"device '{device}' is not (on this machine|known)"):
        load(str(tmp_path), "float32", device)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; expected a GGUF file"),
        (POINTER, "is a pointer of git-lfs"),
        (b"not one", "is no GGUF file"),
        (b"GGUF\x03\x00\x00\x00\x01", "cannot convert the GGUF file .* copy or download it again"),
    ],
    ids=["missing", "pointer", "other", "cut"],
)
def test_a_gguf_file_that_cannot_be_converted_says_why(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "model.gguf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        locate(str(file))


def test_a_gguf_file_is_read_once_and_the_package_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gguf

    made: list[object] = []

    def counted(original: Callable[..., object]) -> Callable[..., object]:
        def make(*given: object) -> object:
            made.append(given)
            return original(*given)

        return make

    for name in ("GGUFReader", "get_tensor_name_map"):
        monkeypatch.setattr(gguf, name, counted(getattr(gguf, name)))
    there = gguf.GGUFReader, gguf.get_tensor_name_map
    file = write_tiny_gguf(tmp_path / "model.gguf")
    made.clear()
    locate(str(file))
    assert len(made) == 2 and (gguf.GGUFReader, gguf.get_tensor_name_map) == there
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cannot convert the GGUF file"):
        locate(str(tmp_path / "cut.gguf"))
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == there


@pytest.mark.parametrize("content", [b"", b"0" * 63, b"g" * 64, b"\xff\xfe", b"0" * 64, b"flipped"])
def test_a_damaged_memory_of_hashes_does_not_change_a_fingerprint(
    tmp_path: Path, cache: Path, content: bytes
) -> None:
    folder = write_model(tmp_path / "model")
    before = load(str(folder), "float32", "cpu").fingerprint
    (memory,) = (cache / "hashes").iterdir()
    kept = memory.read_bytes()
    memory.write_bytes(content if content != b"flipped" else (b"1" if kept[:1] == b"0" else b"0") + kept[1:])
    assert load(str(folder), "float32", "cpu").fingerprint == before


def test_an_end_of_minus_one_is_none_as_some_configs_say_it(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    write(folder, "generation_config.json", b'{"eos_token_id": -1}')
    lm = load(str(folder), "float32", "cpu")
    assert lm.turn_end in lm.stops


def test_a_scorers_model_is_refused_for_the_same_reasons(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    write(folder, WEIGHTS, (folder / WEIGHTS).read_bytes()[:-9])
    with pytest.raises(ModelError, match="is cut"):
        encoder.load_encoder(folder, "cpu")


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_a_scorers_config_that_cannot_be_is_one_message(tmp_path: Path, quantization: str | None) -> None:
    folder = write_model(tmp_path / "model")
    edit_config(folder, num_attention_heads=0)
    with pytest.raises(ModelError, match=r"cannot be loaded with .*ZeroDivisionError.*check config.json"):
        encoder.load_classifier(folder, "cpu", quantization)


def test_a_plan_reads_a_converted_file_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf

    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    file = write_tiny_gguf(tmp_path / "model.gguf")
    prompt = (Message("user", "one two three"),)

    def found() -> tuple[object, ...]:
        counted = counter.__wrapped__(str(file))
        return counted.prompt(prompt), counted.response("one two", False), counted.note, shape_of(str(file))

    before = found()
    locate(str(file))
    monkeypatch.setattr(gguf, "GGUFReader", lambda *_: pytest.fail("the file was read again"))
    assert found() == before and before[2] == f"the tokenizer of {file}"
