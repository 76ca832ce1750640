"""The plugin of vLLM against a stub of its classes: exact LoRAs at any preference, bounds, presets, and a bounded cache."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from paretune.choosing.bounds import Bounds, BoundsError
from paretune.core.errors import ConfigError, ParetuneError
from paretune.core.owners import try_lock
from paretune.core.preference import Preference, preference_grid
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.methods import dpo, modpo, panacea
from paretune.methods.base import DPOConfig, Inputs
from paretune.methods.modpo import MODPOConfig
from paretune.methods.panacea import PanaceaConfig
from paretune.models.language_model import LanguageModel
from paretune.policies.catalogue import Source, find_sources
from paretune.policies.policy import Policy
from paretune.serving import lora_cache
from paretune.serving.lora_cache import LoraCache, on_grid
from paretune.serving.store.store import Store
from paretune.serving.vllm_resolver import Loras, Settings, number_of, register
from paretune.training.lab import Lab
from support.adapters import TRAINING
from support.vllm_stub import LoRARequest, Models, Registry, install
from support.world import make_dataset

OBJECTIVES = ("short", "good")
PROMPT = (Message("user", "red sun over a river"),)


@pytest.fixture(scope="module")
def trained(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Policy]]:
    """Return a run with a soup, anchors, two forms of Panacea and a mixture, and the policies."""
    lab, data = Lab(lm, tmp_path_factory.mktemp("lab"), TRAINING), (make_dataset(), make_dataset(4, seed=9))
    inputs = Inputs(lab, *data)
    rates = {"rate_factor": 20.0, "gate_rate_factor": 5.0}
    policies = {
        "dpo-soup": dpo.train(inputs, DPOConfig()),
        "modpo": modpo.train(Inputs(lab, *data, preference_grid(OBJECTIVES, 2)), MODPOConfig()),
        "panacea": panacea.train(inputs, PanaceaConfig(rank=3, **rates)),
        "panacea-learned": panacea.train(inputs, PanaceaConfig(rank=3, hidden=2, **rates)),
    }
    policies["mod"] = Policy.mod("mod", lm, OBJECTIVES, policies["dpo-soup"].adapters)
    run = tmp_path_factory.mktemp("run")
    for name, policy in policies.items():
        policy.save(run / "policies" / name)
    return run, policies


@pytest.fixture
def run(trained: tuple[Path, dict[str, Policy]], tmp_path: Path) -> Path:
    """Return a copy of the run that a test may change."""
    return Path(shutil.copytree(trained[0], tmp_path / "first"))


@pytest.fixture
def policies(trained: tuple[Path, dict[str, Policy]]) -> dict[str, Policy]:
    return trained[1]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    return install(monkeypatch)


Start = Callable[..., Models]


@pytest.fixture
def start(
    registry: Registry, run: Path, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Start:
    """Return what starts a vLLM that has the plugin, with further variables of the environment."""

    def begin(model: str = lm.name, **variables: str) -> Models:
        monkeypatch.setenv("PARETUNE_VLLM_RUNS", str(run))
        monkeypatch.setenv("PARETUNE_VLLM_CACHE", str(tmp_path / "loras"))
        for name, value in variables.items():
            monkeypatch.setenv(f"PARETUNE_VLLM_{name}", value)
        register()
        return Models(model, registry)

    return begin


def ask(models: Models, name: str) -> LoRARequest | int:
    return asyncio.run(models.resolve_lora(name))


def test_vllm_finds_the_plugin(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = (entry for entry in entry_points(group="vllm.general_plugins") if entry.name == "paretune")
    assert found.load() is register
    monkeypatch.delenv("PARETUNE_VLLM_RUNS", raising=False)
    register()
    assert registry.resolvers == {}, "without runs it stays out of the way"


@pytest.mark.parametrize("name", ["dpo-soup", "panacea", "panacea-learned"])
@pytest.mark.slow
def test_the_lora_answers_as_the_policy_does_at_ten_random_preferences(
    start: Start, policies: dict[str, Policy], name: str
) -> None:
    peft = pytest.importorskip("peft")
    policy, models = policies[name], start()
    lm = policy.lm
    ids = torch.tensor([list(lm.encode_prompt(PROMPT))])
    changed = 0
    for weight in np.random.default_rng(1).random(10).round(2).tolist():
        asked = f"{name}@short={weight:.2f},good={1 - weight:.2f}"
        request = ask(models, asked)
        assert isinstance(request, LoRARequest) and request.lora_name == asked
        base = AutoModelForCausalLM.from_pretrained(lm.name, dtype=torch.float32)
        plain = peft.PeftModel.from_pretrained(base, request.lora_path)
        preference = Preference.parse(asked.partition("@")[2])
        (answer,) = policy.generate([PROMPT], [preference], Sampling(max_new_tokens=12, temperature=0))
        with torch.no_grad():
            made = plain.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, min_new_tokens=len(answer.tokens),
                eos_token_id=None, pad_token_id=0,
            )[0, ids.shape[1] :].tolist()  # fmt: skip
            logits, own = plain(ids).logits[0, -1], policy.distribution(list(ids[0]), [5], preference)[0]
        assert made[: len(answer.tokens)] == list(answer.tokens)
        torch.testing.assert_close(logits.log_softmax(-1), own, atol=2e-5, rtol=1e-5)
        with torch.no_grad():
            changed += not torch.allclose(
                lm.model(input_ids=ids).logits[0, -1].log_softmax(-1), own, atol=1e-3
            )
    assert changed == 10, "the update is one that can be seen"
    assert len({request.lora_path for request in models.loaded.values()}) == len(models.loaded)


@pytest.mark.slow
def test_anchors_answer_with_the_nearest_and_a_bare_name_with_the_default(
    start: Start, policies: dict[str, Policy]
) -> None:
    models = start()
    near, anchor = ask(models, "modpo@short=0.55,good=0.45"), ask(models, "modpo@short+good")
    assert isinstance(near, LoRARequest) and isinstance(anchor, LoRARequest)
    assert near.lora_path == anchor.lora_path
    default = ask(models, "dpo-soup")
    assert isinstance(default, LoRARequest)
    assert default.lora_path.endswith("-0.5-0.5")


def test_what_is_not_served_is_left_to_others_and_what_is_refused_is_said(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    models = start()
    with caplog.at_level(logging.WARNING, "paretune"):
        assert ask(models, "somebody-elses") == 404
        assert ask(models, "mod@short=1") == 404, "a mixture of distributions is no LoRA"
        assert caplog.messages == []
        for name, told in [
            ("dpo-soup@", "ends in '@'"),
            ("dpo-soup@short=0.7", "sum"),
            ("dpo-soup@shrt=1", "unknown objective 'shrt'"),
            ("dpo-soup@short=1.2,good=-0.2", "not a number from 0 to 1"),
            ("dpo-soup@mine", "no store with presets"),
        ]:
            caplog.clear()
            assert ask(models, name) == 404
            (message,) = caplog.messages
            assert message.startswith(f"{name}: ") and told in message, message


def test_the_bounds_of_the_run_hold(start: Start, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run / "config.yaml").write_text("serve: {floors: {good: 0.255}}\nname: first\n", encoding="utf-8")
    models = start(STEP="0.1")
    assert ask(models, "dpo-soup@short=1") == 404
    assert "below its minimum weight 0.255" in caplog.text
    edge = ask(models, "dpo-soup@short=0.745,good=0.255")
    assert isinstance(edge, LoRARequest)
    assert edge.lora_path.endswith("-0.7-0.3"), "rounded to the step that keeps the bound"
    corner = ask(models, "modpo@short=0.745,good=0.255")
    assert corner == 404 or not str(getattr(corner, "lora_path", "")).endswith("-1-0")


def test_presets_of_the_run_can_be_named(start: Start, run: Path) -> None:
    store = Store.open(f"sqlite:///{run / 'store.sqlite'}")
    store.save_preset("ann", "mine", "dpo-soup", Preference.parse("short=0.2,good=0.8"))
    store.close()
    models = start(PROFILE="ann")
    found = ask(models, "dpo-soup@mine")
    assert isinstance(found, LoRARequest) and found.lora_path.endswith("-0.2-0.8")
    assert ask(models, "dpo-soup@yours") == 404


def test_another_base_model_is_refused_and_the_same_weights_elsewhere_are_not(
    start: Start, lm: LanguageModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = shutil.copytree(lm.name, tmp_path / "moved")
    assert isinstance(ask(start(str(moved)), "dpo-soup@short=1"), LoRARequest)
    assert ask(start("somebody/other-model"), "dpo-soup@short=1") == 404
    assert "vLLM serves somebody/other-model" in caplog.text


def test_runs_with_policies_of_one_name_are_told_apart(
    start: Start, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (run, shutil.copytree(run, tmp_path / "second")):
        (place / "config.yaml").write_text("serve: {floors: {}}\nname: x\n", encoding="utf-8")
    loras = Loras(Settings((run, tmp_path / "second"), tmp_path / "loras"))
    assert {"first/dpo-soup", "second/dpo-soup"} <= set(loras.offers)
    assert "dpo-soup" not in loras.offers


def soup_of(run: Path) -> Source:
    return next(source for source in find_sources(run) if source.name == "dpo-soup")


def end_processes(cache: Path, host: str = "") -> None:
    """Make the marks of a cache those of processes that have ended, or of processes of another machine."""
    for mark in cache.glob(".marks/*/*"):
        here, pid, _ = mark.name.split("-")
        mark.rename(mark.with_name(f"{host or here}-{pid}-0"))


AT = [Preference.of({"short": k / 10, "good": 1 - k / 10}, OBJECTIVES) for k in range(6)]


def test_the_cache_is_bounded_and_nothing_in_use_goes(run: Path, tmp_path: Path) -> None:
    soup, folder = soup_of(run), tmp_path / "loras"
    before = LoraCache(folder, 3)
    places = [before.get(soup, preference) for preference in AT[:3]]
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("kept")
    end_processes(folder)
    for age, place in enumerate(places):
        os.utime(place, (age + 1, age + 1))
    later = LoraCache(folder, 3)
    assert later.get(soup, AT[0]) == places[0], "found again"
    fresh = later.get(soup, AT[3])
    assert not places[1].exists(), "the one that was not used for longest"
    assert not (folder / ".marks" / places[1].name).exists()
    assert places[0].exists() and places[2].exists() and fresh.exists()
    later.get(soup, AT[4])
    assert not places[2].exists()
    with pytest.raises(ConfigError, match="all 3 LoRAs of this cache are in use"):
        later.get(soup, AT[1])
    assert (folder / "notes" / "mine.txt").read_text() == "kept"
    config = json.loads((fresh / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"


def test_processes_that_share_a_cache_delete_nothing_that_another_has_given_out(
    run: Path, tmp_path: Path
) -> None:
    soup, folder = soup_of(run), tmp_path / "loras"
    first, second = LoraCache(folder, 2), LoraCache(folder, 2)
    used = first.get(soup, AT[0])
    os.utime(used, (1, 1))
    own = second.get(soup, AT[1])
    with pytest.raises(ConfigError, match="all 2 LoRAs of this cache are in use"):
        second.get(soup, AT[2])
    assert used.exists() and own.exists()
    assert second.get(soup, AT[0]) == used, "what is there is shared"

    end_processes(folder, "a1b2c3d4")
    with pytest.raises(ConfigError, match="are in use"):
        second.get(soup, AT[2])
    assert used.exists(), "lately, by a process of another machine"
    for mark in folder.glob(".marks/*/*"):
        os.utime(mark, (1, 1))
    assert second.get(soup, AT[2]).exists()
    assert len(list(folder.glob("dpo-soup-*"))) == 2


def test_a_process_waits_for_one_that_changes_the_cache(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soup, folder = soup_of(run), tmp_path / "loras"
    cache = LoraCache(folder, 2)
    place = cache.get(soup, AT[0])
    monkeypatch.setattr(lora_cache, "PATIENCE", 0.1)
    with (folder / ".lock").open() as held:
        assert try_lock(held.fileno())
        with pytest.raises(ConfigError, match="another process has changed this cache"):
            cache.get(soup, AT[0])
    assert cache.get(soup, AT[0]) == place


def test_a_policy_that_was_trained_again_gets_loras_of_its_own(
    run: Path, policies: dict[str, Policy], tmp_path: Path
) -> None:
    preference = Preference.parse("short=0.5,good=0.5")

    def place() -> Path:
        return LoraCache(tmp_path / "loras", 8).get(soup_of(run), preference)

    first = place()
    soup = policies["dpo-soup"]
    Policy.soup("dpo-soup", soup.lm, OBJECTIVES, soup.adapters[::-1]).save(run / "policies" / "dpo-soup")
    assert place() != first


def test_weights_on_the_grid_are_the_nearest_and_keep_the_bounds() -> None:
    names = ("a", "b", "c")
    free = Bounds.of({}, names)
    random = np.random.default_rng(0)
    for parts in (1, 3, 10, 100):
        for weights in random.dirichlet(np.ones(3), 40):
            found = on_grid(Preference(names, tuple(weights / weights.sum())), parts, free)
            counts = found.array() * parts
            np.testing.assert_allclose(counts, counts.round(), atol=1e-9)
            assert np.abs(found.array() - weights).max() < 1 / parts
            assert on_grid(found, parts, free) == found
    bounds = Bounds.of({"a": 0.31, "c": 0.05}, names)
    for weights in random.dirichlet(np.ones(3), 100):
        inside = np.array(bounds.minimums) + (1 - sum(bounds.minimums)) * weights
        found = on_grid(Preference(names, tuple(inside / inside.sum())), 10, bounds)
        assert bounds.admits(found) and found["a"] >= 0.4 - 1e-9
    with pytest.raises(BoundsError, match="smaller steps"):
        on_grid(Preference.uniform(names), 2, Bounds.of({"a": 0.1, "b": 0.1, "c": 0.1}, names))


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("STEP", "0.3", "a part of 1"),
        ("STEP", "fine", "expected a number"),
        ("STEP", "0", "a part of 1"),
        ("CACHE_SIZE", "0", "at least 1"),
        ("CACHE_SIZE", "2.5", "whole number"),
        ("RUNS", "/nowhere/at/all", "nothing to serve"),
    ],
)
def test_a_wrong_environment_is_one_message(start: Start, variable: str, value: str, told: str) -> None:
    with pytest.raises(ParetuneError, match=told):
        start(**{variable: value})


def test_a_run_without_such_policies_is_one_message(run: Path, tmp_path: Path) -> None:
    for folder in (run / "policies").iterdir():
        if folder.name != "mod":
            shutil.rmtree(folder)
    with pytest.raises(ConfigError, match="paretune serve the others"):
        Loras(Settings((run,), tmp_path / "loras"))


def test_numbers_of_names_are_positive_and_alike_in_every_process() -> None:
    assert number_of("panacea@concise=0.7,warm=0.3") == number_of("panacea@concise=0.7,warm=0.3")
    assert all(1 <= number_of(str(n)) < 2**31 for n in range(100))
