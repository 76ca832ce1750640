"""A tiny model of many architectures: packed batches say what padded ones say, or the model is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from paretune.core.errors import ModelError
from paretune.models import packing
from paretune.models.architecture import check_decoder, check_kind, shallow_in_float32, short_windows
from paretune.models.language_model import load
from paretune.models.packed_attention.interface import implementation
from paretune.models.packing import TokenGroup, pack, packed_logps, prepare
from paretune.models.steering import Steering
from paretune.planning.shapes import shape_of
from support.architectures import ARCHITECTURES, COMPOSITE, config_of, make_architecture
from support.world import write_model

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
ROW = re.compile(r"^\| [^|]+ \| `(\w+)` \| (work|refused) \| ([^|]*?) ?\|$", re.MULTILINE)
TABLE = {kind: (works == "work", note) for kind, works, note in ROW.findall(PAGE.read_text(encoding="utf-8"))}
GROUPS: list[TokenGroup] = [
    (list(range(3, 14)), [[20, 21, 22, 23, 24], [30, 31]]),
    ([40], [[41, 42, 43], [44, 45, 46, 47, 48, 49, 50, 51]]),
]


def padded_logps(model: PreTrainedModel) -> torch.Tensor:
    """Return the log-probabilities of the responses: every prompt + response a row, padded on the right, eager attention."""
    model.set_attn_implementation("eager")
    rows = [(prompt, response) for prompt, responses in GROUPS for response in responses]
    width = max(len(prompt) + len(response) for prompt, response in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, scored = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        ids[row, :end] = torch.tensor([*prompt, *response])
        mask[row, :end], scored[row, len(prompt) : end] = 1, 1
    logps = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float().log_softmax(-1)
    return (logps.gather(-1, ids[:, 1:, None])[..., 0] * scored[:, 1:]).sum(-1)


def with_gradient(model: PreTrainedModel, logps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values, and the gradient of the embeddings: it has come through every layer."""
    weight = model.get_input_embeddings().weight
    (gradient,) = torch.autograd.grad((logps * torch.tensor([1.0, -2.0, 3.0, 4.0])).sum(), weight)
    return logps.detach(), gradient


def test_the_page_has_a_row_for_each_architecture() -> None:
    assert set(TABLE) == {*ARCHITECTURES, *COMPOSITE} and len(TABLE) >= 36


@pytest.mark.parametrize("kind", [kind for kind, (works, _) in TABLE.items() if works])
def test_packed_is_padded(kind: str) -> None:
    model = make_architecture(kind)
    model.get_input_embeddings().weight.requires_grad_(True)
    expected, slope = with_gradient(model, padded_logps(model))
    prepare(model)
    found, packed_slope = with_gradient(model, packed_logps(model, pack(GROUPS)))
    assert float(expected.std()) > 3, "the model is so flat that a difference would not be seen"
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-4)
    assert float((packed_slope - slope).norm()) <= 1e-3 * float(slope.norm())


@pytest.mark.parametrize("kind", [kind for kind, (works, _) in TABLE.items() if not works])
def test_what_is_refused_says_why(kind: str) -> None:
    with pytest.raises(ModelError) as refusal:
        check_decoder(config_of(kind), kind)
        prepare(make_architecture(kind))
    message, reason = str(refusal.value), TABLE[kind][1]
    assert reason and reason in message, message
    assert "ForCausalLM" in message or kind in message
    assert "not supported" in message and "\n" not in message and len(message) < 420


@pytest.mark.parametrize("kind", [kind for kind in COMPOSITE if not TABLE[kind][0]])
def test_a_folder_of_a_model_that_reads_pictures_is_refused_in_one_message(kind: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / kind)
    config_of(kind).save_pretrained(folder)
    with pytest.raises(ModelError) as refusal:
        load(str(folder), "float32", "cpu")
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 420
    if kind in ("mistral3", "qwen2_5_vl"):
        assert f"no decoder of text alone for the model type '{kind}'" in str(refusal.value)


def test_adapters_and_plans_of_a_model_that_reads_pictures_are_of_its_decoder_alone(tmp_path: Path) -> None:
    model = make_architecture("gemma3")
    assert any("vision" in path and path.endswith("q_proj") for path, _ in model.named_modules())
    steering = Steering.attach(model, ["q_proj"], 2)
    assert len(steering.layers) == 2 and all("language_model" in path for path in steering.layers)
    steering.detach()
    config_of("gemma3").save_pretrained(tmp_path)
    shape = shape_of(str(tmp_path))
    assert (shape.hidden, shape.layers, shape.vocabulary) == (32, 2, 96)


BY_PROOF = ("cohere", "granite", "qwen3_next", "qwen3_5_text", "lfm2", "falcon_h1", "jamba", "bart")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", BY_PROOF)
def test_the_proof_alone_refuses_them(kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the names do not know is seen by the numbers, also in bfloat16."""
    monkeypatch.setattr(packing, "check_kind", lambda model: None)
    with pytest.raises(ModelError, match="computes other log-probabilities"):
        prepare(make_architecture(kind, factor=2).to(dtype))


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gemma4_text", "gpt_oss", "qwen3_moe", "gpt2"])
def test_models_that_work_do_so_in_bfloat16(kind: str) -> None:
    prepare(make_architecture(kind, factor=1).to(torch.bfloat16))


def test_a_window_that_the_attention_is_not_told_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof's texts are longer than the window, however long the model's is."""
    name = implementation("blocks")
    told = ALL_ATTENTION_FUNCTIONS[name]

    def deaf(*given: object, sliding_window: int | None = None, **more: object) -> object:
        return told(*given, **more)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, name, deaf)
    model = make_architecture("mistral")
    model.config.sliding_window = 4096
    with pytest.raises(ModelError, match="computes other log-probabilities"):
        prepare(model)
    prepare(make_architecture("llama"))


def test_the_proof_leaves_the_model_as_it_was() -> None:
    model = make_architecture("gemma3_text").to(torch.bfloat16)
    before = {name: (parameter.data_ptr(), parameter.dtype) for name, parameter in model.named_parameters()}
    head, windows = model.get_output_embeddings(), model.config.sliding_window
    with short_windows(model), shallow_in_float32(model, 64):
        assert model.config.sliding_window == 3
        assert model.get_output_embeddings().weight.shape == (64, 32)
        assert model.model.norm.weight.dtype == torch.float32
    assert model.get_output_embeddings() is head and model.config.sliding_window == windows
    assert len(model.model.layers) == 2
    assert {name: (p.data_ptr(), p.dtype) for name, p in model.named_parameters()} == before


@pytest.mark.parametrize("kind", ["gpt_oss", "gemma3_text", "mistral"])
def test_sampling_has_the_sinks_and_windows_of_the_model(kind: str) -> None:
    model, ids = make_architecture(kind), torch.arange(5, 17)[None]
    model.set_attn_implementation("eager")
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": 95}
    expected = model.generate(ids, **settings)
    prepare(model)
    assert torch.equal(model.generate(ids, **settings), expected)


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(
        ModelError,
        match=r"soft caps \(attn_logit_softcapping 50\) and soft caps \(final_logit_softcapping 30\)",
    ):
        check_kind(make_architecture("gemma2"))


def test_gpt2_has_nothing_that_an_adapter_attaches_to() -> None:
    with pytest.raises(ModelError, match=r"none are nn\.Linear"):
        Steering.attach(make_architecture("gpt2"), ["all-linear"], 2)
