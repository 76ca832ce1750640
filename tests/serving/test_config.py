"""How a run is served: options go before the run's config, and the config before the sampling of its front."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from paretune.core.errors import ConfigError
from paretune.core.sampling import Sampling
from paretune.runs.config import RunConfig
from paretune.runs.run import to_yaml
from paretune.serving.address import Address
from paretune.serving.config import EngineLimits, ServeConfig
from support import records

NO_OPTIONS = dict.fromkeys(
    (
        "run",
        "host",
        "port",
        "policy",
        "floor",
        "api_key_file",
        "allow_host",
        "allow_origin",
        "upstream",
        "manifest",
    )
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
    (folder / "config.yaml").write_text(config, "utf-8", "surrogateescape")
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
        ("serve: {", {}, r"config.yaml: not valid YAML: line 1, column 9"),
        ("serve: {floors: {short: 0.4}}\nserve: {}\n", {}, r"config.yaml: .*the key 'serve' is given twice"),
        ("serve: {floors: {short: 0.4, short: 0}}", {}, r"config.yaml: .*the key 'short' is given twice"),
        ("serve: " + "[" * 3000, {}, r"config.yaml: not valid YAML"),
        ("name: caf\udce9\n", {}, r"config.yaml: the config is not text in UTF-8 \(byte 10 is 0xe9\)"),
        ("serve: {floors: {short: 0.4}}\n\0\0", {}, r"config.yaml: not valid YAML"),
        ("serve: {queue: 3}", {"max_rows": 0}, r"^--max-rows must be at least 1, got 0$"),
    ],
)
@pytest.mark.slow
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


@pytest.mark.slow
def test_a_config_that_was_cut_anywhere_before_its_floors_end_is_not_served(tmp_path: Path) -> None:
    """At every length the file is refused, or has all minimum weights; some cuts are right YAML with fewer or smaller ones."""
    floors = {"short": 0.25, "good": 0.125}
    text = to_yaml(RunConfig.model_validate({"serve": {"floors": floors, "policies": ["soup"]}}))
    run = run_folder(tmp_path, text)
    (run / "versions.json").write_text("{}")
    assert ServeConfig.read(run, {}).floors == floors
    states = Counter[str]()
    for length in range(text.index("serve:"), len(text)):
        (run / "config.yaml").write_text(text[:length])
        try:
            assert ServeConfig.read(run, {}).floors == floors, text[:length]
            assert length > text.index("sweep:")
            states["served"] += 1
        except ConfigError as error:
            assert str(run / "config.yaml") in str(error)
            states["cut" if "ends within the section serve" in str(error) else "other"] += 1
    assert min(states["served"], states["cut"], states["other"]) > 5, states
    (run / "config.yaml").write_text(text[: text.index("0.125") + 3])
    with pytest.raises(
        ConfigError, match=r"ends within the section serve, as a file does that was cut.* --floor"
    ):
        ServeConfig.read(run, {})
    assert ServeConfig.read(run, {"floors": {"short": 0.1}}).floors == {"short": 0.1}


def test_the_folder_of_a_policy_keeps_the_minimum_weights_of_its_run(tmp_path: Path) -> None:
    run = run_folder(tmp_path, "serve: {floors: {short: 0.4}}")
    (run / "policies" / "soup").mkdir(parents=True)
    assert ServeConfig.read(run / "policies" / "soup", {}).floors == {"short": 0.4}
    (run / "config.yaml").write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="expected a mapping of settings, got list"):
        ServeConfig.read(run, {})


def test_a_store_that_is_named_and_declined_is_refused() -> None:
    pytest.importorskip("fastapi")
    from paretune.serving.command import configured

    options = {**NO_OPTIONS, "run": [Path()], "no_store": True, "store": "votes.sqlite"}
    with pytest.raises(ConfigError, match=r"--no-store and --store votes\.sqlite contradict each other"):
        configured(options)


def test_config_and_address_of_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    from paretune.serving.command import configured

    monkeypatch.delenv("PARETUNE_API_KEY", raising=False)
    run = run_folder(tmp_path, "serve: {floors: {short: 0.1}, policies: [soup]}")
    (config,), address = configured({**NO_OPTIONS, "run": [run]})
    assert config.floors == {"short": 0.1} and config.policies == ["soup"] and address == Address()
    options = {"run": [run], "floor": ["good=0.2"], "policy": ["mod"], "port": 0, "allow_host": ["a.example"]}
    (config,), address = configured({**NO_OPTIONS, **options})
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
            configured({**NO_OPTIONS, "run": [run], **missing})
