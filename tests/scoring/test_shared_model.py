"""Reward models in memory: once for all their heads, and no longer than they score."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import numpy as np
import pytest

from paretune.core.errors import ConfigError, ModelError
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row
from paretune.scoring import encoder as encode
from paretune.scoring.scorer import build_scorer, release, score_dataset
from support.reward_models import llama, sequence_classifier

PROMPT = (Message("user", "How are you?"),)
TEXTS = ("fine", "fine thanks and you ?", "the cat", "what about the dog and the cat and the dog")


def rated(scorer, *responses: str) -> np.ndarray:
    return scorer([PROMPT] * len(responses), responses, [False] * len(responses))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("models") / "armo", pad=True, num_labels=3)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref]:
    """Weak references to the models that were loaded."""
    made: list[weakref.ref] = []
    plain = encode.load_classifier

    def load(*given: object) -> encode.Frozen:
        frozen = plain(*given)
        made.append(weakref.ref(frozen.model))
        return frozen

    monkeypatch.setattr(encode, "load_classifier", load)
    return made


def test_heads_of_one_model_share_it_and_each_text_is_read_once(
    folder: Path, loads: list[weakref.ref], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [rated(sequence_classifier("a", str(folder), index=i), *TEXTS) for i in range(3)]
    assert len(loads) == 3  # each scorer is gone before the next is made
    loads.clear()
    read: list[int] = []
    plain = encode.rewards
    monkeypatch.setattr(
        encode, "rewards", lambda m, p, r, *more: read.append(len(r)) or plain(m, p, r, *more)
    )
    scorers = [sequence_classifier(name, str(folder), index=i) for i, name in enumerate("abc")]
    data = ScoredDataset((), (Row(PROMPT, TEXTS),))
    scored = score_dataset(data, scorers)
    assert len(loads) == 1 and read == [len(TEXTS)]
    assert np.array_equal(scored.matrix(scored.rows[0]), np.stack(alone, axis=1))


def test_the_memory_of_a_model_comes_back_and_it_is_loaded_again(
    folder: Path, loads: list[weakref.ref]
) -> None:
    scorers = [sequence_classifier(name, str(folder), index=i) for i, name in enumerate("ab")]
    before = [rated(scorer, *TEXTS) for scorer in scorers]
    (model,) = loads
    assert model() is not None
    release(scorers)
    assert model() is None, (
        "the references are gone on every device; only CUDA's cache has to be emptied beside"
    )
    assert np.array_equal(rated(scorers[0], *TEXTS), before[0]) and len(loads) == 2
    del scorers
    assert loads[1]() is None, "a model outlives its scorers"


@pytest.mark.parametrize("kind", [None, "cuda", "mps", "xpu"])
def test_an_accelerator_gives_memory_back_whatever_its_kind(
    folder: Path, kind: str | None, loads: list[weakref.ref], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    told: list[str] = []
    scorer = sequence_classifier("a", str(folder), device="cpu")
    rated(scorer, *TEXTS)
    device = None if kind is None else torch.device(kind)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: device)
    if device is not None:
        monkeypatch.setattr(torch.get_device_module(device), "empty_cache", lambda: told.append(str(kind)))
    release([scorer])
    assert loads[0]() is None and told == ([] if kind is None else [kind])
    release([scorer])
    assert len(told) <= 1, "there was nothing to give back"


def test_the_encoder_of_heads_is_shared_and_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paretune.scoring import bradley_terry as bt

    made: list[weakref.ref] = []

    class Model:
        """Stands for a loaded encoder."""

    def loaded(head: bt.Head, device: str | None, dtype: str) -> Model:
        model = Model()
        made.append(weakref.ref(model))
        return model

    monkeypatch.setattr(bt, "load_encoder_of", loaded)
    read: list[int] = []

    def features(model: Model, prompts: list, responses: list, size: int) -> np.ndarray:
        read.append(len(responses))
        return np.array([[len(r), 1.0] for r in responses], np.float32)

    monkeypatch.setattr(bt, "features", features)
    report = bt.HeadReport("x", "", "encoder", "0", 1, 1, 1, 1, 0.1, *[0.5] * 5, 0.0)
    for name, weight in (("one", [1.0, 0.0]), ("two", [0.0, 2.0])):
        bt.save_head(bt.Head(np.array(weight), report), tmp_path / name)
    scorers = [build_scorer({"objective": n, "head": str(tmp_path / n)}) for n in ("one", "two")]
    assert [rated(s, "abc", "d").tolist() for s in scorers] == [[3.0, 1.0], [2.0, 2.0]]
    assert len(made) == 1 and read == [2]
    release(scorers)
    assert made[0]() is None


def test_eight_bits_are_near_the_whole_numbers_and_another_scorer(folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    whole = sequence_classifier("a", str(folder), index=1)
    eight = build_scorer({"objective": "a", "model": str(folder), "index": 1, "quantization": "int8"})
    assert whole.fingerprint != eight.fingerprint
    expected, found = rated(whole, *TEXTS), rated(eight, *TEXTS)
    assert not np.array_equal(expected, found)
    assert np.abs(found - expected).max() < 0.1 * np.ptp(expected)


def test_a_head_of_another_width_is_one_message(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    for name, shape in (("width", (3, 24)), ("outputs", (2, 16))):
        other = shutil.copytree(folder, tmp_path / name)
        tensors = load_file(other / "model.safetensors")
        tensors["score.weight"] = torch.zeros(shape)
        save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
        scorer = sequence_classifier("a", str(other))
        with pytest.raises(
            ModelError, match=rf"score\.weight is \[{shape[0]}, {shape[1]}\], .* asks for \[3, 16\].*width"
        ):
            rated(scorer, "fine")
    assert "MISMATCH" not in "".join(capfd.readouterr()), "transformers says it too"


def test_what_a_model_cannot_be_asked(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"index 3: .* has 3 outputs, expected 0\.\.2"):
        build_scorer({"objective": "a", "model": str(folder), "index": 3})
    with pytest.raises(ConfigError, match=r"quantization: 'int4'.*int8, nf4"):
        build_scorer({"objective": "a", "model": str(folder), "quantization": "int4"})
    assert encode.heads_of(folder) == len(json.loads((folder / "config.json").read_text())["id2label"])
