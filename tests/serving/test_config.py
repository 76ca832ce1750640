"""How a run is served: options go before the run's config, and the config before the sampling of its front."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretune.core.errors import ConfigError
from paretune.core.sampling import Sampling
from paretune.serving.address import Address
from paretune.serving.config import EngineLimits, ServeConfig
from support import records

NO_OPTIONS = dict.fromkeys(
    ("run", "host", "port", "policy", "floor", "api_key_file", "allow_host", "upstream", "manifest")
) | {"no_key": False}
VERSION_0_1 = """
name: a run
serve:
  policies: []
  preference: null
  floors: {}
  max_tokens: 400
  max_prompt_tokens: 2048
  max_rows: 32
  queue: 256
  timeout: 120.0
"""


def run_folder(folder: Path, config: str) -> Path:
    (folder / "config.yaml").write_text(config)
    sampling = {"max_new_tokens": 24, "temperature": 0.7, "top_p": 0.9, "batch_size": 8}
    front = records.record(("short", "good"), [], sampling=sampling)
    (folder / "front.json").write_text(json.dumps(front))
    return folder


def test_each_setting_comes_from_the_first_place_that_states_it(tmp_path: Path) -> None:
    run = run_folder(tmp_path, VERSION_0_1 + "  temperature: 0.5\n  top_p: null\n")
    config = ServeConfig.read(run, {"max_rows": 4, "queue": None, "host": "elsewhere"})
    assert (config.max_tokens, config.max_rows, config.queue) == (400, 4, 256)
    assert config.sampling == Sampling(24, 0.5, 0.9)
    assert config.engine_limits == EngineLimits(max_rows=4, max_waiting=256, max_prompt_tokens=2048)
    assert ServeConfig.read(None, {}) == ServeConfig() and ServeConfig().sampling == Sampling()


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (
            "serve: {max_token: 3}",
            {},
            r"config.yaml: unknown key serve.max_token; did you mean 'max_tokens'\?",
        ),
        ("serve: {timeout: 0}", {}, r"config.yaml: serve.timeout must be above 0, got 0$"),
        ("serve: [3]", {}, r"config.yaml: serve: \[3\]: expected keys"),
        ("serve: {", {}, r"config.yaml: cannot read"),
        ("serve: {queue: 3}", {"max_rows": 0}, r"^--max-rows must be at least 1, got 0$"),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(
    tmp_path: Path, config: str, options: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ServeConfig.read(run_folder(tmp_path, config), options)


@pytest.mark.parametrize(
    ("config", "state"),
    [
        (None, "is missing"),
        ("", "is empty"),
        ("name: x\n", "has no serve.floors"),
        ("serve: {queue: 3}", "has no serve.floors"),
    ],
)
def test_a_run_whose_minimum_weights_are_lost_is_not_served_without_bounds(
    tmp_path: Path, config: str | None, state: str
) -> None:
    run = run_folder(tmp_path, config or "")
    (run / "versions.json").write_text("{}")
    policy = run / "policies" / "soup"
    policy.mkdir(parents=True)
    if config is None:
        (run / "config.yaml").unlink()
    for place in (run, policy):
        with pytest.raises(ConfigError, match=f"config.yaml: {state}, so the minimum weights .* --floor"):
            ServeConfig.read(place, {})
        assert ServeConfig.read(place, {"floors": {"short": 0.1}}).floors == {"short": 0.1}


def test_the_folder_of_a_policy_keeps_the_minimum_weights_of_its_run(tmp_path: Path) -> None:
    run = run_folder(tmp_path, "serve: {floors: {short: 0.4}}")
    (run / "policies" / "soup").mkdir(parents=True)
    assert ServeConfig.read(run / "policies" / "soup", {}).floors == {"short": 0.4}
    (run / "config.yaml").write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="expected a mapping of settings, got list"):
        ServeConfig.read(run, {})


def test_config_and_address_of_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    from paretune.serving.command import configured

    monkeypatch.delenv("PARETUNE_API_KEY", raising=False)
    run = run_folder(tmp_path, "serve: {floors: {short: 0.1}, policies: [soup]}")
    config, address = configured({**NO_OPTIONS, "run": run})
    assert config.floors == {"short": 0.1} and config.policies == ["soup"] and address == Address()
    options = {"run": run, "floor": ["good=0.2"], "policy": ["mod"], "port": 0, "allow_host": ["a.example"]}
    config, address = configured({**NO_OPTIONS, **options})
    assert config.floors == {"good": 0.2} and config.policies == ["mod"]
    assert address == Address(port=0, allow_hosts=("a.example",))
    assert "a.example" in address.host_names and "localhost" in address.host_names
    either, manifest = (
        "give a run folder, or --upstream URL with --manifest",
        "--upstream needs --manifest FILE",
    )
    upstream, both = {"upstream": "http://x/v1"}, {"upstream": "http://x/v1", "manifest": "manifest.json"}
    wrong = [
        ({"run": None}, either),
        (both, either),
        (upstream, manifest),
        ({"run": None, **upstream}, manifest),
    ]
    for missing, message in wrong:
        with pytest.raises(ConfigError, match=message):
            configured({**NO_OPTIONS, "run": run, **missing})
