"""Tiny reward models in folders: sequence classifiers with random parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paretune.scoring.function_scorer import FunctionScorer
from paretune.scoring.neural import RewardModel

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "User", "Assistant", "How", "are", "you", "?", "fine", "thanks"]
WORDS += ["and", "what", "about", "the", "cat", "dog"]
SMALL = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.5,  # large enough for the scores to differ
}
CHAT = "{% for m in messages %}{{ m['role'] | capitalize }} {{ m['content'] }} [SEP] {% endfor %}"


def tokenizer(folder: Path, **settings: Any) -> Any:
    """Write a tokenizer of these words to a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    settings = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", **settings}
    made = PreTrainedTokenizerFast(tokenizer_object=core, **settings)
    made.save_pretrained(folder)
    return made


def llama(folder: Path, pad: bool, side: str = "right", num_labels: int = 2) -> Path:
    """Write a Llama with ``num_labels`` logits and a chat template; without ``pad`` it has no padding token."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(
        **SMALL, max_position_embeddings=64, num_labels=num_labels, pad_token_id=0 if pad else None
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    settings = {"pad_token": "[PAD]"} if pad else {}
    made = tokenizer(folder, padding_side=side, model_input_names=["input_ids", "attention_mask"], **settings)
    made.chat_template = CHAT
    made.save_pretrained(folder)
    return folder


def bert(folder: Path) -> Path:
    """Write a BERT with one logit, which reads prompt and response as two segments."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(**SMALL, max_position_embeddings=24, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer(folder, pad_token="[PAD]", model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    return folder


def sequence_classifier(objective: str, model: str, **settings: Any) -> FunctionScorer:
    """Return the scorer of a reward model."""
    return RewardModel(objective, model, **settings).scorer()
