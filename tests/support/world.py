"""A small world for tests: a random Llama with a byte tokenizer in a folder, and scored data for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row

TEMPLATE = (
    "{% for m in messages %}<u>{{ m['content'] }}</u>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
WORDS = ["good", "kind", "bad", "red", "blue", "sun", "moon", "tree", "stone", "river"]


TAGS = ["<short:", "<good:", *(f"{level}/10>" for level in range(11))]
"""Words of the score tags that Rewards-in-Context writes into prompts for :func:`make_dataset` (form ``levels``)."""


def write_model(folder: Path, seed: int = 0, words: Sequence[str] = WORDS) -> Path:
    """Write a tiny model and tokenizer that `paretune.models.language_model.load` reads; what is not among ``words`` is
    one unknown token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from support.tiny import make_tiny_llama

    special = ["<pad>", "<s>", "</s>", "<u>", "</u>", "<a>"]
    vocabulary = special + [f"{mark}{word}" for word in words for mark in ("", "▁")]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<u>", "</u>", "<a>"],
    )
    fast.chat_template = TEMPLATE
    model = make_tiny_llama(seed, vocab_size=len(vocabulary))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def make_dataset(rows: int = 12, responses: int = 3, seed: int = 0) -> ScoredDataset:
    """Scored rows of random words: `short` wants few words, `good` wants the word good; they disagree often."""
    import random

    random_ = random.Random(seed)
    made = []
    for number in range(rows):
        answers: list[str] = []
        while len(answers) < responses:
            answer = " ".join(random_.choices(WORDS, k=random_.randint(1, 7)))
            if answer not in answers:
                answers.append(answer)
        scores = {
            "short": tuple(-float(len(a.split())) for a in answers),
            "good": tuple(float(a.split().count("good") + 0.1 * len(a.split())) for a in answers),
        }
        prompt = (Message("user", " ".join(random_.choices(WORDS, k=3)) + f" {WORDS[number % 10]}"),)
        made.append(Row(prompt, tuple(answers), scores, {}, (False,) * responses, f"made:{number}"))
    return ScoredDataset(("short", "good"), tuple(made))
