"""The arguments of a chat template go from a config into every prompt, and with the policy to wherever it is used."""

from __future__ import annotations

import json
import logging
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paretune.core.errors import ConfigError, ModelError
from paretune.core.preference import preference_grid
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.fronts.record import FrontRecord
from paretune.policies.catalogue import find_sources
from paretune.policies.export import export_grid
from paretune.policies.saving import load_policy
from paretune.runs.checks import check_config
from paretune.runs.config import RunConfig
from paretune.runs.parse import parse_config
from paretune.runs.run import run
from paretune.runs.scores import thought_cautions
from paretune.serving.config import ServeConfig
from paretune.serving.events import Job
from paretune.serving.upstream import Upstream
from support.chat_models import write_chat_model
from support.runs_world import small_run

ARGUMENTS = {"enable_thinking": False}
QUESTION = (Message("user", "why"),)
QWEN3 = (files("trl") / "chat_templates" / "qwen3.jinja").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of DPO soups and MODPO with arguments of the template."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETUNE_CACHE", str(place / "cache"))
        model = write_chat_model(
            place / "model", QWEN3, added=("<|im_start|>", "<|im_end|>", "<think>", "</think>")
        )
        return small_run(place / "run", model, chat_template=ARGUMENTS)


@pytest.mark.slow
def test_a_policy_writes_its_prompts_with_them_wherever_it_is_loaded(
    made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = made / "policies" / "modpo"
    assert json.loads((folder / "policy.json").read_text())["chat_template"] == ARGUMENTS
    with caplog.at_level(logging.WARNING):
        policy = load_policy(folder, device="cpu")
    assert not caplog.records, "it is the very model that it was trained on"
    assert policy.lm.chat_template == ARGUMENTS
    assert policy.lm.text(policy.lm.encode_prompt(QUESTION)).endswith("<think>\n\n</think>\n\n")
    assert find_sources(made)[0].named_base.chat_template == ARGUMENTS


@pytest.mark.slow
def test_report_card_and_exports_say_them(made: Path, tmp_path: Path) -> None:
    assert FrontRecord.read(made / "front.json").sampling["chat_template"] == ARGUMENTS
    assert '`{"enable_thinking": false}` of its chat template' in (made / "README.md").read_text()
    policy = load_policy(made / "policies" / "modpo", device="cpu")
    manifest = export_grid(policy, preference_grid(list(policy.objectives), 1), tmp_path / "loras")
    assert manifest["chat_template"] == ARGUMENTS
    read_me = (tmp_path / "loras" / next(iter(manifest["adapters"])) / "README.md").read_text()
    assert "return_dict=True, enable_thinking=False)" in read_me
    assert '{"enable_thinking": false}' in read_me and "chat_template_kwargs" in read_me
    backend = Upstream.of(
        "http://127.0.0.1:1/v1", tmp_path / "loras" / "manifest.json", "vllm", ServeConfig()
    )
    preference = preference_grid(list(policy.objectives), 1)[0]
    _, body = backend.request(Job(policy.name, QUESTION, preference, Sampling(), 0))
    assert body["chat_template_kwargs"] == ARGUMENTS
    path, body = backend.request(Job(policy.name, "why", preference, Sampling(), 0))
    assert path == "/completions" and "chat_template_kwargs" not in body, "text is read as it is"


def test_an_argument_that_cannot_be_is_refused_before_training(made: Path, tmp_path: Path) -> None:
    values = json.loads(
        json.dumps({"folder": str(tmp_path / "run"), "model": str(made.parent / "model"), "device": "cpu"})
    )
    config = parse_config({**values, "chat_template": {"enable_thinkin": False}, **_data(made)})
    with pytest.raises(
        ModelError, match=r"chat_template: 'enable_thinkin' is no argument .*'enable_thinking'"
    ):
        run(config)


def _data(made: Path) -> dict[str, Any]:
    return {
        "data": {"source": str(made.with_suffix(".jsonl"))},
        "score": [
            {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"},
            {"objective": "good", "rule": "regex", "pattern": "good", "how": "count"},
        ],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"enable thinking": False}, "chat_template: 'enable thinking' is no name"),
        ({"mode": float("nan")}, "chat_template.mode"),
        ({"mode": {1, 2}}, "chat_template.mode"),
    ],
)
def test_arguments_that_no_template_has(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(RunConfig(chat_template=arguments))
    with pytest.raises(ConfigError, match=f"endpoint: {message}"):
        check_config(
            RunConfig.model_validate({"endpoint": {"url": "http://x/v1", "chat_template": arguments}})
        )


def test_an_endpoint_writes_prompts_as_the_run_does_unless_it_is_told_otherwise() -> None:
    endpoint = {"url": "http://x/v1", "stages": ["ric"]}
    config = RunConfig.model_validate(
        {"chat_template": ARGUMENTS, "endpoint": endpoint, "methods": {"ric": {}}}
    )
    assert config.server is not None and config.server.chat_template == ARGUMENTS
    assert config.endpoint_of("ric") == config.server
    own = config.model_copy(
        update={
            "endpoint": RunConfig.model_validate(
                {"endpoint": {**endpoint, "chat_template": {"reasoning_effort": "low"}}}
            ).endpoint
        }
    )
    assert own.server is not None and own.server.chat_template == {"reasoning_effort": "low"}


def test_answers_that_think_are_counted() -> None:
    def judgement(*texts: str) -> Any:
        point = SimpleNamespace(responses=[list(texts)])
        return SimpleNamespace(everything={"a": SimpleNamespace(points=[point])}, extrapolations={})

    config = RunConfig(score=[{"objective": "short", "rule": "length"}])
    assert thought_cautions(config, judgement("one", "two")) == ()
    (said,) = thought_cautions(config, judgement("<think>a</think>b", "<think>a", "c"))
    assert said.startswith("2 of 3 answers think first. Their thought is not part of what is scored.")
    assert "1 of them were cut within their thought" in said and "enable_thinking: false" in said
    config = RunConfig(score=[{"objective": "short", "rule": "length", "thinking": True}])
    (said,) = thought_cautions(config, judgement("<think>a</think>b"))
    assert "it is scored on short (thinking: true)" in said and "cut" not in said
