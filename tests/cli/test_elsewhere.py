"""Commands on a policy whose base model lies elsewhere: started as a person starts them, with --model, --device and --dtype."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from subprocess import CompletedProcess

import httpx
import pytest

from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from support.forked import COMMAND_LINE, run
from support.server_process import process

PROMPT = "good moon"
ELSEWHERE = ("--device", "cpu", "--dtype", "float32")


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int, str]:
    """A run with one policy, the folder to which its base model was moved, and a seed with its answer before that."""
    import torch

    from paretune.models.adapter import Adapter
    from paretune.models.language_model import load
    from paretune.policies.policy import Policy
    from support.serve_world import OBJECTIVES
    from support.world import write_model

    os.environ["PARETUNE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    model = write_model(tmp_path_factory.mktemp("model") / "base")
    lm = load(str(model), "float32", "cpu")
    path = "model.layers.0.self_attn.q_proj"
    random = torch.Generator().manual_seed(0)
    adapters = [
        Adapter(
            {path: (torch.randn(64, 2, generator=random), torch.randn(2, 64, generator=random))},
            1.0,
            lm.fingerprint,
        )
        for _ in OBJECTIVES
    ]
    run, place = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("elsewhere") / "copy"
    policy = Policy.soup("soup", lm, OBJECTIVES, adapters)
    policy.save(run / "policies/soup")
    shutil.move(model, place)
    asked, at = (Message("user", PROMPT),), Preference.parse("short=0.2,good=0.8", OBJECTIVES)
    texts = [policy.generate([asked], [at], Sampling(6, 1.0, 0.95), [seed])[0].text for seed in range(20)]
    seed = max(range(20), key=lambda n: len(texts[n]))  # a random model often ends at once
    assert len(texts[seed].split()) > 2
    return run, place, seed, texts[seed]


def command(*arguments: object, text: str = "") -> CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TERM": "dumb"}
    given = [*COMMAND_LINE, *map(str, arguments)]
    return run(given, input=text, capture_output=True, text=True, timeout=600, env=environment)


@pytest.mark.slow
def test_serve_and_chat_and_generate_answer_as_before_with_the_model_at_another_place(
    moved: tuple[Path, Path, int, str],
) -> None:
    folder, place, seed, answer = moved
    ask = ("-p", "short=0.2,good=0.8", "--temperature", 1, "--seed", seed, "--model", place, *ELSEWHERE)
    generated = command("generate", folder / "policies/soup", PROMPT, "--max-new-tokens", 6, "--json", *ask)
    assert generated.returncode == 0, generated.stderr
    (said,) = json.loads(generated.stdout)
    assert said["text"] == answer and said["preference"] == {"short": 0.2, "good": 0.8}
    with process(folder, "--model", place, *ELSEWHERE, "--no-store") as (_, address):
        body = {
            "model": "soup", "messages": [{"role": "user", "content": PROMPT}], "temperature": 1, "max_tokens": 6,
            "top_p": 0.95, "seed": seed, "preference": {"short": 0.2, "good": 0.8},
        }  # fmt: skip
        served = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=120).json()
    assert served["choices"][0]["message"]["content"] == answer, served
    chatted = command("chat", folder, "--max-tokens", 6, *ask, text=f"{PROMPT}\n/p short=2\n")
    assert chatted.returncode == 0 and answer in chatted.stdout, chatted.stdout + chatted.stderr
    assert "the weights sum to 2" in chatted.stdout.rpartition(answer)[2], (
        "a preference that is none is said, and the chat goes on"
    )


@pytest.mark.slow
def test_without_the_model_a_command_says_what_to_give(moved: tuple[Path, Path, int, str]) -> None:
    done = command("chat", moved[0], text=f"{PROMPT}\n")
    assert done.returncode == 2 and done.stderr.count("\n") <= 2, done.stderr
    assert "--model" in done.stderr or "model=" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
