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


# Templates with tools, cut down from those of the families that they are named after.
_SHOWN = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] or '' }}"
)
_CLOSED = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_EACH = "{% for c in m['tool_calls'] or [] %}"
_NAME = "{{ c['function']['name'] }}"
_GIVEN = "{{ c['function']['arguments'] | tojson }}"
HERMES = (
    f"{_SHOWN}{_EACH}"
    "{% if not loop.first or m['content'] %}{{ '\\n' }}{% endif %}"
    f'<tool_call>\n{{"name": "{_NAME}", "arguments": {_GIVEN}}}\n</tool_call>{{% endfor %}}{_CLOSED}'
)
BARE = (
    f"{_SHOWN}{{% if m['tool_calls'] %}}"
    "{% if m['tool_calls'] | length > 1 %}{{ raise_exception('one at a time') }}{% endif %}{% set c = m['tool_calls'][0] %}"
    f'{{"name": "{_NAME}", "parameters": {_GIVEN}}}{{% endif %}}{_CLOSED}'
)
LISTED = (
    f"{_SHOWN}{{% if m['tool_calls'] %}}[TOOL_CALLS][{_EACH}"
    f'{{"name": "{_NAME}", "arguments": {_GIVEN}, "id": "{{{{ c[\'id\'] }}}}"}}'
    f"{{% if not loop.last %}}, {{% endif %}}{{% endfor %}}]{{% endif %}}{_CLOSED}"
)
NAMED = (
    _SHOWN
    + _EACH
    + "[TOOL_CALLS]{{ c['function']['name'] }}[ARGS]{{ c['function']['arguments'] | tojson }}{% endfor %}"
    + _CLOSED
)
IN_TAGS = (
    _SHOWN
    + _EACH
    + "<tool_call>\n<function={{ c['function']['name'] }}>\n{% for k, v in c['function']['arguments'] | items %}"
    "<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>\n{% endfor %}"
    + _CLOSED
)
TOOL_TEMPLATES = {"hermes": HERMES, "bare": BARE, "listed": LISTED, "named": NAMED, "tags": IN_TAGS}
"""Form of calls -> chat template."""
