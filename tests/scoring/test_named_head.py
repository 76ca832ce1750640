"""Reward models whose class is not one of transformers: their head is found by its name, and their code is not run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from paretune.core.errors import ModelError
from paretune.data.rows import Message
from paretune.scoring.scorer import build_scorer
from support.reward_models import llama, sequence_classifier

HEAD, PROMPT = "regression_layer.weight", (Message("user", "How are you?"),)
TEXTS = ["fine", "fine thanks and you ?", "what about the dog and the cat"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("models") / "plain", pad=True, num_labels=5)


@pytest.fixture(scope="module")
def armo(plain: Path) -> Path:
    """The same numbers as in ArmoRM's files: five ratings, one label, a gating network, and a class of its own."""
    folder = shutil.copytree(plain, plain.parent / "armo")
    tensors = load_file(folder / "model.safetensors")
    tensors[HEAD] = tensors.pop("score.weight")
    tensors |= {
        "gating.layers.0.weight": torch.randn(8, 16),
        "gating.layers.0.bias": torch.randn(8),
        "gating.logit_scale": torch.ones(1),
        "reward_transform_matrix": torch.eye(5),
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "architectures": ["LlamaForRewardModelWithGating"],
        "auto_map": {"AutoModelForSequenceClassification": "modeling_custom.LlamaForRewardModelWithGating"},
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "num_objectives": 5,
        "gating_temperature": 10,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_custom.py").write_text("raise SystemExit('the code of a model was run')\n")
    return folder


def rated(scorer) -> np.ndarray:
    return scorer([PROMPT] * len(TEXTS), TEXTS, [False] * len(TEXTS))


@pytest.mark.parametrize("index", [0, 4])
def test_a_named_head_gives_the_ratings_of_its_layout(plain: Path, armo: Path, index: int) -> None:
    expected = rated(sequence_classifier("a", str(plain), index=index))
    entry = {"objective": "a", "model": str(armo), "head_weight": HEAD, "index": index}
    assert np.ptp(expected) > 0 and np.allclose(rated(build_scorer(entry)), expected, atol=1e-6)


def test_a_named_head_in_8_bits(plain: Path, armo: Path) -> None:
    pytest.importorskip("bitsandbytes")
    expected = rated(sequence_classifier("a", str(plain), index=2, quantization="int8"))
    found = rated(sequence_classifier("a", str(armo), index=2, quantization="int8", head_weight=HEAD))
    assert np.allclose(found, expected, atol=1e-6)


def test_without_the_name_the_message_says_what_the_files_hold(armo: Path) -> None:
    with pytest.raises(ModelError, match=r"score\.weight are missing.*head_weight.*regression_layer\.weight"):
        rated(sequence_classifier("a", str(armo)))


def test_a_name_that_the_files_do_not_have_and_an_index_beyond_the_head(armo: Path) -> None:
    with pytest.raises(ModelError, match=r"no matrix of this name; did you mean 'regression_layer\.weight'"):
        sequence_classifier("a", str(armo), head_weight="regresion_layer.weight")
    with pytest.raises(ModelError, match=r"index 5: .* has 5 outputs, expected 0\.\.4"):
        sequence_classifier("a", str(armo), head_weight=HEAD, index=5)
