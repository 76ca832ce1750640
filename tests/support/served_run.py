"""A trained run over the tiny model, served live."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from paretune.core.preference import Preference, preference_grid
from paretune.methods import dpo, modpo
from paretune.methods.base import DPOConfig, Inputs
from paretune.methods.modpo import MODPOConfig
from paretune.models.language_model import LanguageModel
from paretune.policies.policy import Policy
from paretune.policies.policy_file import BaseChoice
from paretune.serving.config import ServeConfig
from paretune.serving.local import LocalBackend
from paretune.serving.service import Service
from paretune.serving.store.store import Store
from paretune.training.lab import Lab
from support.adapters import TRAINING
from support.serve_world import OBJECTIVES
from support.world import make_dataset


@pytest.fixture(scope="module", name="run")
def trained_run(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a soup, anchors and a mixture."""
    folder = tmp_path_factory.mktemp("run")
    lab, data = Lab(lm, tmp_path_factory.mktemp("lab"), TRAINING), (make_dataset(), make_dataset(4, seed=9))
    made = dpo.train(Inputs(lab, *data), DPOConfig())
    mixed = Policy.mod("mod", lm, made.objectives, made.adapters)
    anchored = modpo.train(Inputs(lab, *data, preference_grid(OBJECTIVES, 2)), MODPOConfig())
    for name, policy in (("dpo-soup", made), ("mod", mixed), ("modpo", anchored)):
        policy.save(folder / "policies" / name)
    return folder


def service_of(place: Path, folder: Path, **settings: object) -> Service:
    """A service as ``paretune serve PLACE`` makes it, with its store in ``folder``."""
    config = ServeConfig(**{"max_prompt_tokens": 64, **settings})  # type: ignore[arg-type]
    backend = LocalBackend.of(place, config, BaseChoice(dtype="float32", device="cpu"))
    return Service(backend, Store.open(f"sqlite:///{folder / 'store.sqlite'}"), config)


def client_of(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def ask(
    client: openai.OpenAI, model: str, text: str, preference: Preference, seed: int, **more: object
) -> str:
    """Ask once, whole or streaming, and return the text."""
    asked = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "seed": seed,
        "max_tokens": 12,
        "top_p": 0.9,
    }
    answer = client.chat.completions.create(**asked, extra_body={"preference": preference.as_dict()}, **more)  # type: ignore[call-overload]
    if not more.get("stream"):
        return str(answer.choices[0].message.content)
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
