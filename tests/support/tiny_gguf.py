"""A tiny random Llama as the GGUF file that llama.cpp and transformers read."""

from __future__ import annotations

from pathlib import Path

from support.tiny import make_tiny_llama

WORDS = ("red", "blue", "sun", "moon", "good", "kind")


def write_tiny_gguf(target: Path, kind: str = "F32", seed: int = 0) -> Path:
    """Write a random Llama with a vocabulary of bytes and a few words, its matrices in a format of GGUF; return the file."""
    import gguf

    from paretune.models.gguf_lora import paired_rows

    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *(f"▁{word}" for word in WORDS),
    ]
    kinds = [2, 3, 3, *[6] * 256, *[1] * len(WORDS)]
    model = make_tiny_llama(seed, vocab_size=len(tokens))
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    stored = gguf.GGMLQuantizationType[kind]
    for path, parameter in model.state_dict().items():
        matrix = parameter.numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        matrix = paired_rows(matrix, heads[layer]) if (layer := path.split(".")[-2]) in heads else matrix
        there = names.get_name(path, try_suffixes=(".weight",))
        assert there is not None, path
        form = stored if matrix.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(there, gguf.quantize(matrix, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
