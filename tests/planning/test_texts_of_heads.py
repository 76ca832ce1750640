"""What the encoder of fitted heads will read: each response twice, behind the user's last message and alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretune.core.meter import metered
from paretune.data.load import load_data
from paretune.data.rows import Message, Row
from paretune.models.embedded import EMBEDDED
from paretune.planning.lengths import ENCODER_TOKENS, Counter, counter, encoded
from paretune.runs.estimate import estimate
from paretune.runs.parse import parse_config
from paretune.runs.plan import plan
from paretune.scoring import encoder
from paretune.scoring.bradley_terry import features

WORDS = Counter(lambda prompt: 1000, lambda text, cut: len(text.split()) + (not cut), "words")
DIALOGUE = (
    Message("user", "word " * 30),
    Message("assistant", "word " * 50),
    Message("user", "and then what"),
)


def test_only_the_last_message_of_a_dialogue_is_read_and_no_template() -> None:
    rows = [Row(DIALOGUE, ("no idea", "you go right home"))]
    assert encoded(rows, WORDS) == ((3 + 2) + 2 + (3 + 4) + 4) / 4
    assert encoded(rows, WORDS, answer=10) == ((3 + 10) + 10) / 2
    assert encoded([Row(DIALOGUE, ())], WORDS) == 0


def test_a_long_text_is_read_to_the_limit_of_the_encoder() -> None:
    assert encoded([Row(DIALOGUE, ("word " * 255,))], WORDS) == (ENCODER_TOKENS + 255) / 2
    assert encoded([Row(DIALOGUE, ("word " * 900,))], WORDS) == ENCODER_TOKENS


@pytest.mark.slow
def test_the_plan_counts_texts_of_their_own_length(tmp_path: Path) -> None:
    """A long dialogue before the last message costs the base model's reading, and the encoder's nothing."""
    found = {}
    for turns in (0, 8):
        before = [
            {"role": role, "content": "word " * 60} for _ in range(turns) for role in ("user", "assistant")
        ]
        rows = [
            {
                "prompt": [*before, {"role": "user", "content": f"what is {100 + n}"}],
                "chosen": "a b c",
                "rejected": "d e",
            }
            for n in range(60)
        ]
        file = tmp_path / f"{turns}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = parse_config(
            {
                "model": EMBEDDED,
                "folder": str(tmp_path / "run"),
                "data": {"source": [{"path": str(file), "objective": "good"}]},
                "score": [{"objective": "good", "head": "fit"}, {"objective": "short", "rule": "length"}],
                "methods": {"dpo-soup": {}},
                "sampling": {"max_new_tokens": 20},
            }
        )
        planned = plan(config)
        (heads,) = [stage for stage in planned.stages if stage.name == "heads"]
        (cost,) = [row.cost for row in estimate(planned, config, "1b", "a100").rows if row.name == "heads"]
        assert cost.tokens == pytest.approx(heads.embedded * heads.embedded_tokens) and cost.tokens > 0
        found[turns] = (heads.embedded_tokens, planned.encoded_tokens, planned.judged_tokens)
    assert found[0][:2] == found[8][:2] and found[0][0] < 20
    assert found[8][2] > 5 * found[0][2]


@pytest.mark.model
@pytest.mark.slow
def test_planned_tokens_are_about_those_that_the_encoder_reads() -> None:
    rows = load_data("quickstart").rows[:6]
    prompts = [row.prompt for row in rows for _ in row.responses]
    responses = [text for row in rows for text in row.responses]
    with metered() as meter:
        features(encoder.load_encoder(encoder.locate(encoder.DEFAULT_ENCODER), "cpu"), prompts, responses)
    planned = 2 * len(responses) * encoded(rows, counter(EMBEDDED))
    assert meter.spent is not None and planned == pytest.approx(meter.spent["tokens_read"], rel=0.15)
