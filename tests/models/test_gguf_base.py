"""A base model's GGUF file is copied, or its matrices are written in another format and all else stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GgufConfig

from paretune.core.errors import ModelError
from paretune.models.gguf_base import write_base
from paretune.models.gguf_file import BaseForm
from support.tiny_gguf import write_tiny_gguf

gguf = pytest.importorskip("gguf")


@torch.no_grad()
def logits_of(file: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    return model(input_ids=torch.tensor([[3, 70, 90, 260, 4]])).logits


@pytest.mark.parametrize(("form", "apart"), [("copy", 0), ("f32", 0), ("f16", 0.02), ("bf16", 0.15)])
def test_the_model_is_the_same_within_the_rounding_of_its_format(
    tmp_path: Path, form: BaseForm, apart: float
) -> None:
    source = write_tiny_gguf(tmp_path / "small.gguf", "Q8_0")
    write_base(source, tmp_path / "base.gguf", form)
    first, second = gguf.GGUFReader(source), gguf.GGUFReader(tmp_path / "base.gguf")
    stored = {tensor.name: tensor.tensor_type.name for tensor in second.tensors}
    assert stored["blk.0.attn_q.weight"] == ("Q8_0" if form == "copy" else form.upper())
    assert stored["blk.0.attn_norm.weight"] == "F32"
    assert (source.read_bytes() == (tmp_path / "base.gguf").read_bytes()) == (form == "copy")
    kept = set(first.fields) - {"general.file_type", "GGUF.kv_count"}
    assert all(first.fields[name].contents() == second.fields[name].contents() for name in kept)
    off = (logits_of(source) - logits_of(tmp_path / "base.gguf")).abs().max()
    assert float(off) <= apart


def test_what_cannot_be_read_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "none.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ModelError, match=r"none\.gguf: cannot be written as f32"):
        write_base(tmp_path / "none.gguf", tmp_path / "base.gguf", "f32")
    source = write_tiny_gguf(tmp_path / "small.gguf")
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"small\.gguf: cannot be written as f32"):
        write_base(source, tmp_path / "base.gguf", "f32")
