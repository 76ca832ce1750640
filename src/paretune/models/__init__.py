"""One frozen model and its gated updates.

Reading order: gates, tensors, adapter, lora_variants, export_cards, gguf_lora, gguf_file, gguf_base, singular_gates,
targets, gated_linear, frozen_linear, quantised, tag_embeddings, steering, packed_attention, head, architecture, kernels,
decoding_block, packing, kept_states, kv_cache, exclusive; devices, embedded, hub_reach, hub, gguf_once, loading, chat_template,
tool_calls, call_reader, language_model, gguf_splits, gguf_pieces, gguf_vocabulary, gguf_model; values, reward_heads; distributed.
"""
