"""A checkpoint goes on only with the numbers that training wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from paretune.core.errors import TrainingError
from paretune.data.pairs import pairs
from paretune.models.language_model import LanguageModel
from paretune.training import loop
from paretune.training.lab import Lab
from support.adapters import TRAINING
from support.world import make_dataset

CHANGES: dict[str, tuple[Callable[[Tensor], Tensor | None], str]] = {
    "gone": (lambda x: None, "no exp_avg/.* in it"),
    "float64": (lambda x: x.double(), r"exp_avg/.* is torch.float64 .* expected torch.float32"),
    "another shape": (lambda x: x[:1].contiguous(), r"exp_avg/.*, expected torch.float32 \[\d+, \d+\]"),
    "NaN": (lambda x: x * float("nan"), "exp_avg/.* NaN or infinite"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_of_other_numbers_is_refused(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    step = loop._Loop.step

    def killed(self: loop._Loop, number: int, *rest: object) -> object:
        if number == 4:
            raise KeyboardInterrupt
        return step(self, number, *rest)  # type: ignore[arg-type]

    lab = Lab(lm, tmp_path, TRAINING)
    table = lab.pair_table(pairs(make_dataset(), "good"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop._Loop, "step", killed)
        lab.fit("t", table, None, 0.1)
    (file,) = (tmp_path / "checkpoints").glob("*.safetensors")
    with safe_open(file, framework="pt") as opened:
        facts = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    name = next(name for name in sorted(tensors) if name.startswith("exp_avg/"))
    edit, message = CHANGES[change]
    value = edit(tensors.pop(name))
    save_file(tensors | ({} if value is None else {name: value}), file, metadata=facts)
    with pytest.raises(TrainingError, match=rf"cannot read the checkpoint .*{message}.*; delete it to start"):
        lab.fit("t", table, None, 0.1)
    file.unlink()
    lab.fit("t", table, None, 0.1)
