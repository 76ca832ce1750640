"""Tiny random models of each architecture that is written as GGUF, in folders, with tokenizers of the two kinds that it knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CORPUS = [
    "The sun and the moon are good to the red river, and it's kind of blue.",
    "Is the stone in the tree? They're 12 or 345, we'll see; I'd say 6789!",
    "def good(red):\n\treturn red  # the moon\n\n\nIn the end there is   a stone.",
    "Über die Brücke fließt der Fluß; façade, naïve, 東京の川 и река.",
] * 4
TEXTS = [
    "The sun is good, it's kind.",
    "  two spaces,\ttab\n\n\nlines 12345 3.14",
    "façade 東京 река 🙂 zyx QQQ",
    "They'RE all' gone-river_stone",
    "red " * 9,
]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
"""Of Llama 3 and Qwen, as it stands in their files."""
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+SHORT|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}"
    r"\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*SHORT|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES
)
"""Of Mistral's Tekken and GPT-4o."""
SPLITS = {
    "gpt-2": [],
    "smollm": [{"type": "Digits", "individual_digits": True}],
    "llama-bpe": WORDS.replace("DIGITS", r"\p{N}{1,3}"),
    "qwen2": WORDS.replace("DIGITS", r"\p{N}"),
    "tekken": CASED.replace("SHORT", "").replace("DIGITS", r"\p{N}"),
    "gpt-4o": CASED.replace("SHORT", f"{SHORT}?").replace("DIGITS", r"\p{N}{1,3}"),
}
"""Name of a way of splitting in llama.cpp -> steps before the bytes, or one expression."""


def steps_of(name: str) -> dict[str, Any]:
    """Return ``pre_tokenizer`` of a tokenizer that splits as llama.cpp does under a name."""
    split = SPLITS[name]
    byte = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": isinstance(split, list),
    }
    if isinstance(split, list):
        return {"type": "Sequence", "pretokenizers": [*split, byte]} if split else byte
    step = {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [step, byte]}


def byte_tokenizer(split: str = "qwen2", begins: bool = False, **changes: Any) -> Any:
    """Return a tokenizer of bytes that splits texts as llama.cpp does under a name; ``changes`` are put into its JSON."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    facts = json.loads(Tokenizer(models.BPE()).to_str())
    facts["pre_tokenizer"] = steps_of(split)
    made = Tokenizer.from_str(json.dumps(facts))
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    facts = json.loads(made.to_str())
    facts["model"]["ignore_merges"] = split in ("llama-bpe", "tekken")
    for key, value in changes.items():
        (facts["model"] if key in facts["model"] else facts)[key] = value
    if begins:
        facts["post_processor"] = _begin("<|endoftext|>", 0)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(facts)),
        bos_token="<|endoftext|>" if begins else None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
    )


def piece_tokenizer(scheme: str = "prepend", template: str = INSTRUCT, **changes: Any) -> Any:
    """Return a tokenizer of SentencePiece's kind.

    Args:
        scheme: How spaces are written: ``prepend`` before each text (Llama 2), ``first``, ``always`` or ``never`` by
            ``Metaspace``, or ``plain`` as Gemma.
        template: Its chat template.
        changes: What is put into its JSON.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=230, show_progress=False))
    facts = json.loads(trained.to_str())
    pieces = sorted(facts["model"]["vocab"], key=facts["model"]["vocab"].get)
    pieces = [piece for piece in pieces if len(piece) == 1] + [piece for piece in pieces if len(piece) > 1]
    first = ["<unk>", "<s>", "</s>"]
    listed = [*first, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *([] if "▁" in pieces else ["▁"])]
    vocabulary = {token: number for number, token in enumerate(listed)}
    merges = [
        [piece[:cut], piece[cut:]]
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    normalizer, steps = None, None
    if scheme == "prepend":
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
    elif scheme == "plain":
        normalizer = replace
        steps = {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        }
    else:
        steps = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    back = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *([] if scheme in ("plain", "never") else [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]),
    ]
    whole: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [_added(number, token) for number, token in enumerate(first)],
        "normalizer": normalizer,
        "pre_tokenizer": steps,
        "post_processor": _begin("<s>", 1),
        "decoder": {"type": "Sequence", "decoders": back},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": merges,
        },
    }
    for key, value in changes.items():
        (whole["model"] if key in whole["model"] else whole)[key] = value
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(whole)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=template,
    )


def _added(number: int, content: str, **flags: bool) -> dict[str, Any]:
    known = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": content, **known, **flags}


def _begin(token: str, number: int) -> dict[str, Any]:
    """Return a post processor that begins texts with a token."""
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }


SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def random_model(kind: str, rows: int, seed: int = 0, **changes: Any) -> Any:
    """Return a random model of a type of transformers with ``rows`` embeddings; its norms and biases are random too."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **{**SIZES, "vocab_size": rows, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    parameter += 0.3 * torch.randn_like(parameter)
                    parameter *= 0.5 if name.endswith("bias") else 1.0
    return model


def write_random(folder: Path, kind: str, tokenizer: Any, padded: int = 0, **changes: Any) -> Path:
    """Write a random model with a tokenizer into a folder; it has ``padded`` more embeddings than there are tokens."""
    most = max(tokenizer.get_vocab().values()) + 1
    model = random_model(kind, most + padded, **changes)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
