"""Value heads as values: the trunk by hand, files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from paretune.core.errors import ModelError
from paretune.models.language_model import LanguageModel
from paretune.models.values import Values, hidden_size, last_states


def random_values(hidden: int = 6, base: str = "base", seed: int = 0) -> Values:
    start = Values.start(hidden, 4, ("warm", "short"), base, seed)
    random = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(t.shape, generator=random) for name, t in start.tensors.items()}
    return Values(tensors, start.objectives, base, {"lam": 0.95})


def test_untrained_heads_are_worth_nothing() -> None:
    values = Values.start(6, 4, ("warm", "short"))
    assert torch.equal(values(torch.randn(3, 6), torch.randn(3, 6)), torch.zeros(3, 2))


def test_the_trunk_by_hand() -> None:
    values, random = random_values(), torch.Generator().manual_seed(1)
    hidden, embedding = torch.randn(6, generator=random), torch.randn(6, generator=random)
    t = values.tensors

    def normed(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()

    z = F.gelu(t["state"] @ normed(hidden) + t["token"] @ normed(embedding) + t["bias"])
    assert torch.allclose(values(hidden, embedding), t["heads"] @ z + t["offset"], atol=1e-5)
    several = values(hidden[None], torch.stack([embedding, 3 * embedding]))
    assert torch.allclose(several[0], several[1], atol=1e-4), "the size of an embedding does not matter"


def test_they_are_read_back_as_they_were(tmp_path: Path) -> None:
    values = random_values()
    values.save(tmp_path / "v")
    read = Values.load(tmp_path / "v", "base", 6)
    assert (read.objectives, read.base, read.info) == (values.objectives, "base", {"lam": 0.95})
    assert read.fingerprint == values.fingerprint != random_values(seed=1).fingerprint
    assert all(torch.equal(read.tensors[name], values.tensors[name]) for name in values.tensors)


def test_heads_of_another_base_are_refused(tmp_path: Path) -> None:
    random_values().save(tmp_path / "v")
    with pytest.raises(ModelError, match="value heads of the base model base, but the model in use is other"):
        Values.load(tmp_path / "v", "other")
    with pytest.raises(ModelError, match="value heads for states of 6 numbers, but the model in use has 8"):
        Values.load(tmp_path / "v", "base", 8)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file; expected the folder of value heads"):
        Values.load(tmp_path / "v")
    random_values().save(tmp_path / "v")
    file = tmp_path / "v" / "values.json"
    whole = json.loads(file.read_text())
    for key, value, match in (
        ("format", 9, "of the format 9"),
        ("objectives", ["warm"], "value heads for 1 objectives of the shapes"),
        ("fingerprint", "x", "not those that were saved"),
        ("info", 3, "damaged"),
    ):
        file.write_text(json.dumps({**whole, key: value}))
        with pytest.raises(ModelError, match=match):
            Values.load(tmp_path / "v")


def test_tensors_that_do_not_fit_are_refused() -> None:
    good = random_values().tensors
    with pytest.raises(ModelError, match="missing: offset"):
        Values({name: t for name, t in good.items() if name != "offset"}, ("warm", "short"))
    with pytest.raises(ModelError, match="expected"):
        Values({**good, "token": torch.zeros(4, 7)}, ("warm", "short"))


def test_last_states_are_what_the_head_reads(lm: LanguageModel) -> None:
    ids = torch.tensor([[3, 8, 9, 5]])
    with torch.no_grad(), last_states(lm.model) as states:
        logits = lm.model(input_ids=ids).logits
    with torch.no_grad():
        again = lm.model.get_output_embeddings()(states[0])
        lm.model(input_ids=ids)
    assert torch.allclose(logits, again, atol=1e-5) and len(states) == 1, (
        "and nothing is collected behind the context"
    )
    assert states[0].shape == (1, 4, hidden_size(lm.model))
