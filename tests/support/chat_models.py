"""Tiny models with the chat templates and tokenizers of the wild: byte-level tokens, markers as special or added tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
DATED = "Now: {{ strftime_now('%Y-%m-%d %H:%M') }}\n" + CHATML


def write_chat_model(
    folder: Path,
    template: str | None,
    eos: str = "<|endoftext|>",
    added: Sequence[str] = (),
    special: bool = False,
    **config: object,
) -> Path:
    """Write a random Llama whose tokens are bytes and words, with further tokens ``added`` and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AddedToken, PreTrainedTokenizerFast

    from support.tiny import make_tiny_llama

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {
        letter: number for number, letter in enumerate([*alphabet, "Ġa", "re", "Ġre", "Ġred", "red"])
    }
    merges = [("Ġ", "a"), ("r", "e"), ("Ġ", "re"), ("Ġre", "d"), ("re", "d")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token=eos)
    fast.add_tokens([AddedToken(text, special=special, normalized=False) for text in added])
    fast.chat_template = template
    settings = {"vocab_size": len(fast), "bos_token_id": None, "eos_token_id": fast.eos_token_id, **config}
    make_tiny_llama(**settings).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
