"""A base model written as GGUF is the same model when transformers reads it back; what llama.cpp would do otherwise is refused."""

from __future__ import annotations

import json
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from paretune.core.errors import ModelError
from paretune.models.embedded import EMBEDDED, embedded_gguf
from paretune.models.gguf_file import BaseForm, Entry, write_tensors
from paretune.models.gguf_model import ModelFile
from paretune.models.language_model import LanguageModel, load
from paretune.models.loading import locate
from support.tiny_models import CORPUS, TEXTS, byte_tokenizer, piece_tokenizer, write_random

gguf = pytest.importorskip("gguf")

IDS = torch.tensor([[3, 70, 90, 260, 4, 280, 7, 7, 100, 8]])
GEMMA = {
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "num_hidden_layers": 7,
    "sliding_window": 4,
    "tie_word_embeddings": True,
}
MODELS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "llama": ("llama", lambda: byte_tokenizer("llama-bpe", begins=True), {}),
    "llama of pieces": (
        "llama",
        piece_tokenizer,
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    ),
    "tied": ("llama", piece_tokenizer, {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "mistral": ("mistral", lambda: piece_tokenizer("first"), {}),
    "qwen2": ("qwen2", byte_tokenizer, {"rms_norm_eps": 1e-5}),
    "qwen3": ("qwen3", byte_tokenizer, {"head_dim": 128}),  # transformers reads no other length
    "gemma3": ("gemma3_text", lambda: piece_tokenizer("plain"), GEMMA),
}


def made(folder: Path, kind: str, tokenizer: Any, dtype: str = "float32", **settings: Any) -> LanguageModel:
    return load(str(write_random(folder, kind, tokenizer, padded=3, **settings)), dtype, "cpu")


@torch.no_grad()
def logits_of(file: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    return model(input_ids=IDS).logits


def facts_of(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_transformers_reads_the_same_model_back(tmp_path: Path, name: str) -> None:
    kind, tokenizer, settings = MODELS[name]
    lm = made(tmp_path / "model", kind, tokenizer(), **settings)
    ModelFile.of(lm, "copy").write(tmp_path / "base.gguf")
    with torch.no_grad():
        own = lm.model(input_ids=IDS).logits
    torch.testing.assert_close(logits_of(tmp_path / "base.gguf"), own, atol=1e-5, rtol=1e-5)
    names = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "base.gguf").tensors}
    assert ("output.weight" in names) != bool(settings.get("tie_word_embeddings"))


@pytest.mark.parametrize("name", ["llama", "llama of pieces", "qwen2", "qwen3"])
def test_transformers_reads_the_same_tokens(tmp_path: Path, name: str) -> None:
    kind, tokenizer, settings = MODELS[name]
    lm = made(tmp_path / "model", kind, tokenizer(), **settings)
    ModelFile.of(lm, "f16").write(tmp_path / "base.gguf")
    back = AutoTokenizer.from_pretrained(tmp_path, gguf_file="base.gguf")
    assert back.chat_template == lm.tokenizer.chat_template
    assert (back.eos_token, back.bos_token) == (
        lm.tokenizer.eos_token,
        lm.tokenizer.bos_token or back.bos_token,
    )
    for text in (TEXTS[0], "The red sun"):  # it reads no name of a way of splitting
        plain = lm.tokenizer(text, add_special_tokens=False).input_ids
        assert back(text, add_special_tokens=False).input_ids == plain


@pytest.mark.parametrize(("form", "apart"), [("f32", 1e-6), ("f16", 0.03), ("bf16", 0.3), ("q8_0", 0.6)])
def test_matrices_are_in_the_format_that_is_asked_for(tmp_path: Path, form: BaseForm, apart: float) -> None:
    lm = made(tmp_path / "model", "llama", byte_tokenizer("smollm"), intermediate_size=72)
    ModelFile.of(lm, form).write(tmp_path / "base.gguf")
    stored = {
        tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "base.gguf").tensors
    }
    assert stored["blk.0.attn_q.weight"] == stored["token_embd.weight"] == form.upper()
    assert stored["blk.0.ffn_down.weight"] == ("F16" if form == "q8_0" else form.upper()), (
        "rows of 72 are no blocks of 32"
    )
    assert stored["output_norm.weight"] == "F32"
    with torch.no_grad():
        off = (lm.model(input_ids=IDS).logits - logits_of(tmp_path / "base.gguf")).abs().max()
    assert float(off) <= apart


def test_a_model_held_in_bfloat16_is_written_so(tmp_path: Path) -> None:
    lm = made(tmp_path / "model", "llama", byte_tokenizer("gpt-2"), "bfloat16")
    file = ModelFile.of(lm, "copy")
    assert file.form == "bf16"
    file.write(tmp_path / "base.gguf")
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "base.gguf").tensors}
    weight = gguf.dequantize(found["blk.1.ffn_up.weight"].data, found["blk.1.ffn_up.weight"].tensor_type)
    assert np.array_equal(weight, lm.model.model.layers[1].mlp.up_proj.weight.float().numpy())


def test_settings_and_tokenizer_stand_in_the_file(tmp_path: Path) -> None:
    lm = made(tmp_path / "Some-Model", "llama", byte_tokenizer("llama-bpe", begins=True), head_dim=24)
    ModelFile.of(lm, "f32").write(tmp_path / "base.gguf")
    facts = facts_of(gguf.GGUFReader(tmp_path / "base.gguf"))
    config, backend = lm.model.config, json.loads(lm.tokenizer.backend_tokenizer.to_str())["model"]
    assert facts["general.name"] == "Some-Model"
    assert facts["llama.attention.key_length"] == facts["llama.rope.dimension_count"] == 24
    assert facts["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(config.rms_norm_eps)
    assert facts["llama.rope.freq_base"] == config.rope_parameters["rope_theta"]
    assert facts["llama.vocab_size"] == len(facts["tokenizer.ggml.tokens"]) == config.vocab_size
    assert facts["tokenizer.ggml.tokens"][-3:] == [f"[PAD{config.vocab_size - left}]" for left in (3, 2, 1)]
    assert facts["tokenizer.ggml.token_type"][-4:] == [1, 5, 5, 5]
    assert facts["tokenizer.ggml.token_type"][:3] == [3, 3, 3]
    assert facts["tokenizer.ggml.merges"] == [" ".join(pair) for pair in backend["merges"]]
    assert (facts["tokenizer.ggml.pre"], facts["tokenizer.ggml.add_bos_token"]) == ("llama-bpe", True)
    assert facts["tokenizer.ggml.add_eos_token"] is False
    assert facts["tokenizer.chat_template"] == lm.tokenizer.chat_template


def test_scaled_positions_of_llama_3_are_factors(tmp_path: Path) -> None:
    scaled = {
        "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    lm = made(tmp_path / "model", "llama", byte_tokenizer("gpt-2"), rope_parameters=scaled)
    ModelFile.of(lm, "f32").write(tmp_path / "base.gguf")
    (factors,) = (
        t.data for t in gguf.GGUFReader(tmp_path / "base.gguf").tensors if t.name == "rope_freqs.weight"
    )
    plain = 1e4 ** -(np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(plain / factors, lm.model.model.rotary_emb.inv_freq.numpy(), rtol=1e-5)
    assert factors[0] == 1 and factors[-1] == pytest.approx(8)


@pytest.mark.parametrize(
    ("kind", "settings", "positions"),
    [
        ("mistral", {"sliding_window": 100}, 100),
        ("mistral", {"sliding_window": None}, 256),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 50, "max_window_layers": 1}, 50),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 50}, 256),
        ("gemma3_text", GEMMA, 256),
    ],
)
def test_what_llama_cpp_lacks_in_long_texts_shortens_them(
    tmp_path: Path, kind: str, settings: dict[str, Any], positions: int
) -> None:
    file = ModelFile.of(made(tmp_path / "model", kind, byte_tokenizer(), **settings), "f32")
    assert file.positions == positions
    assert any("states" in note for note in file.notes) == (positions < 256)


def test_tokens_that_end_an_answer_are_told(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<stop>", "<halt>", "<whoa>"]})
    folder = write_random(tmp_path / "model", "qwen2", tokenizer)
    stops = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>", "<stop>", "<halt>", "<whoa>"])
    settings = json.loads((folder / "generation_config.json").read_text())
    for count in (4, 5):
        (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": stops[:count]}))
        lm = load(str(folder), "float32", "cpu")
        if count == 5:
            with pytest.raises(
                ModelError, match=r"answers end with 5 tokens, .* '<whoa>' out of eos_token_id"
            ):
                ModelFile.of(lm, "f32")
        else:
            special = ModelFile.of(lm, "f32").vocabulary.special
            assert [special[kind] for kind in ("eos", "eot", "eom")] == [stops[0], stops[2], stops[3]]


def test_only_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    held: list[weakref.ref[np.ndarray]] = []
    most = 0

    def read() -> np.ndarray:
        nonlocal most
        most = max(most, sum(each() is not None for each in held))
        made = np.ones((64, 64), np.float32)
        held.append(weakref.ref(made))
        return made

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    write_tensors(writer, [Entry(f"t{number}", (64, 64), read) for number in range(5)], "bf16")
    assert len(held) == 5 and most == 0


TOKENIZERS: list[tuple[Any, str]] = [
    (lambda: byte_tokenizer(normalizer={"type": "Lowercase"}), "changes texts by a step Lowercase"),
    (lambda: byte_tokenizer(pre_tokenizer={"type": "Whitespace"}), "splits texts by a step Whitespace"),
    (lambda: byte_tokenizer(pre_tokenizer=None), "does not read texts as bytes"),
    (lambda: byte_tokenizer("gpt-2", dropout=0.1), "has dropout 0.1"),
    (lambda: byte_tokenizer("gpt-2", added_tokens=[_token("<|x|>", lstrip=True)]), "white space before it"),
    (lambda: byte_tokenizer("gpt-2", added_tokens=[_token("<|x|>", rstrip=True)]), "white space behind '<|x|>' along"),
    (lambda: piece_tokenizer("prepend", added_tokens=[_token("<unk>", normalized=True)]), "normalized in tokenizer.json"),
    (lambda: piece_tokenizer(pre_tokenizer={"type": "WhitespaceSplit"}), "splits texts by WhitespaceSplit"),
    (lambda: piece_tokenizer(normalizer={"type": "NFKC"}), "changes texts by a step NFKC"),
    (lambda: piece_tokenizer("first", "{% for m in messages %}{{ m['content'] + eos_token + 'so' }}{% endfor %}"), "chat template"),
]  # fmt: skip


def _token(content: str, **flags: bool) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": 0, "content": content, **plain, **flags}


@pytest.mark.parametrize(("tokenizer", "message"), TOKENIZERS, ids=[message for _, message in TOKENIZERS])
def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused(
    tmp_path: Path, tokenizer: Any, message: str
) -> None:
    lm = made(tmp_path / "model", "llama", tokenizer())
    with pytest.raises(ModelError, match="leave --with-base out, and convert the model") as caught:
        ModelFile.of(lm, "f32")
    assert message in str(caught.value)


def test_a_split_that_is_not_known_is_refused_with_its_expression(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer("llama-bpe")
    facts = json.loads(tokenizer.backend_tokenizer.to_str())
    facts["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|\S"
    lm = made(tmp_path / "model", "llama", byte_tokenizer("llama-bpe", pre_tokenizer=facts["pre_tokenizer"]))
    with pytest.raises(
        ModelError, match=r"splits texts by \\p\{L\}\+\|\\S, and that llama.cpp does the same is not known"
    ):
        ModelFile.of(lm, "f32")


def test_words_are_taken_whole_only_where_merging_makes_them_too(tmp_path: Path) -> None:
    facts = json.loads(byte_tokenizer("tekken").backend_tokenizer.to_str())["model"]
    lost = [pair for pair in facts["merges"] if pair != facts["merges"][-1]]
    whole = byte_tokenizer("tekken", ignore_merges=False)
    assert ModelFile.of(made(tmp_path / "whole", "llama", whole), "f32").vocabulary.pre == "tekken"
    cut = byte_tokenizer("tekken", ignore_merges=False, merges=lost)
    with pytest.raises(ModelError, match="merges words that are tokens"):
        ModelFile.of(made(tmp_path / "cut", "llama", cut), "f32")


def test_pieces_that_llama_cpp_would_merge_otherwise_are_refused(tmp_path: Path) -> None:
    merges = json.loads(piece_tokenizer().backend_tokenizer.to_str())["model"]["merges"]
    double = next(at for at in range(1, len(merges)) if "".join(merges[at]) == "".join(merges[at - 1]))
    for changed, message in (
        (merges[:double] + merges[double + 1 :], "does not merge them"),
        ([merges[double], *merges[:double], *merges[double + 1 :]], "in two places of its list"),
    ):
        lm = made(tmp_path / "model", "llama", piece_tokenizer(merges=changed))
        with pytest.raises(ModelError, match=message):
            ModelFile.of(lm, "f32")


def test_a_tokenizer_of_probabilities_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, trainers
    from transformers import PreTrainedTokenizerFast

    made_ = Tokenizer(models.Unigram())
    made_.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=made_, eos_token="</s>", unk_token="<unk>")
    with pytest.raises(ModelError, match="is of the type Unigram, and no BPE"):
        ModelFile.of(made(tmp_path / "model", "llama", fast), "f32")


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("llama", {"hidden_act": "gelu"}, "llama has no activation gelu"),
        ("qwen3", {"attention_bias": True}, r"qwen3 has no model\.layers\.0\.self_attn\.q_proj\.bias"),
        ("gemma3_text", {**GEMMA, "query_pre_attn_scalar": 16}, "no query_pre_attn_scalar 16"),
        ("gemma3_text", {**GEMMA, "layer_types": ["full_attention"] * 7}, "no full_attention in layer 1"),
        ("phi3", {"head_dim": 32}, "no heads of 32 numbers"),
        (
            "qwen2",
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
            "no positions of the type llama3",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "mscale": 0.7,
                "original_max_position_embeddings": 64}},
            "yarn with mscale",
        ),
    ],
)  # fmt: skip
def test_a_setting_that_llama_cpp_does_not_have_is_refused(
    tmp_path: Path, kind: str, settings: dict[str, Any], message: str
) -> None:
    lm = made(tmp_path / "model", kind, byte_tokenizer("gpt-2"), **settings)
    with pytest.raises(ModelError, match=message):
        ModelFile.of(lm, "f32").write(tmp_path / "base.gguf")


def test_numbers_beyond_f16_are_refused(tmp_path: Path) -> None:
    lm = made(tmp_path / "model", "llama", byte_tokenizer("gpt-2"))
    with torch.no_grad():
        lm.model.model.layers[1].mlp.up_proj.weight[3, 5] = 1e6
    with pytest.raises(ModelError, match=r"blk\.1\.ffn_up\.weight: has numbers that are too large for f16"):
        ModelFile.of(lm, "f16").write(tmp_path / "base.gguf")


@pytest.mark.model
@pytest.mark.skipif(embedded_gguf() is None, reason="the package of the embedded model is not installed")
@pytest.mark.slow
def test_the_embedded_model_is_written_anew_as_it_was(tmp_path: Path) -> None:
    source = embedded_gguf()
    assert source is not None
    lm = load(str(locate(EMBEDDED)), "float32", "cpu")
    ModelFile.of(lm, "f32").write(tmp_path / "base.gguf")
    before, after = gguf.GGUFReader(source), gguf.GGUFReader(tmp_path / "base.gguf")
    old, new = ({tensor.name: tensor for tensor in reader.tensors} for reader in (before, after))
    assert set(old) == set(new)
    for name, tensor in old.items():
        assert np.array_equal(gguf.dequantize(tensor.data, tensor.tensor_type), new[name].data), name
    was, now = facts_of(before), facts_of(after)
    other = {"GGUF.kv_count", "general.name", "general.file_type", "tokenizer.ggml.pre"}
    assert all(now[key] == was[key] for key in set(was) & set(now) - other)
    lacking = set(was) - set(now) - {"general.quantization_version"}
    assert all(key.startswith("general.") for key in lacking), lacking
    # transformers reads no name of a way of splitting, so paretune reads digits of this model as GPT-2 does.
    assert (was["tokenizer.ggml.pre"], now["tokenizer.ggml.pre"]) == ("smollm", "gpt-2")
    assert Counter(tensor.tensor_type.name for tensor in after.tensors).keys() == {"F32"}
