"""A policy made on one machine is used on another: its base model elsewhere, at another commit, and it itself on the hub."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from paretune.core.errors import ConfigError, ModelError
from paretune.core.files import fingerprint, read_json, write_json
from paretune.core.preference import Preference, preference_grid
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.fronts.record import FrontRecord
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel, load
from paretune.policies.catalogue import find_policy, find_sources
from paretune.policies.export import export, export_grid
from paretune.policies.policy import Policy
from paretune.policies.saving import load_policy
from paretune.policies.shared import pull, push, without_places
from paretune.reports.card import About
from support import records
from support.fake_hub import FakeHub, put_in
from support.world import write_model

OBJECTIVES = ("short", "good")
HALF = Preference.parse("short=0.5,good=0.5")
IDS = torch.tensor([[3, 7, 9, 11, 4, 6]])
FLOAT = {"dtype": "float32", "device": "cpu"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    return put_in(monkeypatch, tmp_path / "hub")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def soup(lm: LanguageModel) -> Policy:
    def adapter(seed: int) -> Adapter:
        generator = torch.Generator().manual_seed(seed)
        factors = {
            f"model.layers.{n}.self_attn.o_proj": (
                torch.randn(64, 2, generator=generator),
                torch.randn(2, 64, generator=generator),
            )
            for n in range(2)
        }
        return Adapter(factors, 0.1, lm.fingerprint)

    return Policy.soup("soup", lm, OBJECTIVES, [adapter(0), adapter(1)])


def answer(policy: Policy) -> str:
    prompt = (Message("user", "good red moon"),)
    return policy.generate([prompt], [HALF], Sampling(8, 0.0, 1.0), [0])[0].text


def test_a_policy_loads_where_its_base_model_lies_elsewhere(
    model: Path, tmp_path: Path, hub: FakeHub
) -> None:
    made = soup(load(str(model), "float32", "cpu"))
    made.save(tmp_path / "p")
    said = answer(made)
    model.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"base model .*model is not on this machine.*model= \(--model"):
        load_policy(tmp_path / "p", **FLOAT)
    assert answer(load_policy(tmp_path / "p", model=str(tmp_path / "elsewhere"), **FLOAT)) == said
    with pytest.raises(ModelError, match="is on this machine and has no revisions"):
        load_policy(tmp_path / "p", model=str(tmp_path / "elsewhere"), revision="main")


def test_a_policy_on_other_weights_is_refused_by_a_message_with_both(
    model: Path, tmp_path: Path, hub: FakeHub
) -> None:
    soup(load(str(model), "float32", "cpu")).save(tmp_path / "p")
    other = write_model(tmp_path / "other", seed=1)
    first, second = (load(str(place), "float32", "cpu").origin.weights for place in (model, other))
    with pytest.raises(ModelError) as refused:
        load_policy(tmp_path / "p", model=str(other), **FLOAT)
    text = str(refused.value)
    assert (
        all(part in text for part in (str(model), first, str(other), second, "--model")) and first != second
    )
    assert "\n" not in text


def test_a_new_commit_of_the_same_weights_is_the_same_base_model(
    model: Path, tmp_path: Path, hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    commit = hub.commit("team/base", model)
    lm = load("team/base", "float32", "cpu")
    assert (lm.hub_name, lm.origin.hub.commit, lm.portable_name) == ("team/base", commit, "team/base")
    assert lm.fingerprint == load(str(model), "float32", "cpu").fingerprint, "a copy in a folder is the same"
    soup(lm).save(tmp_path / "p")
    facts = read_json(tmp_path / "p/policy.json")
    assert (facts["model"], facts["hub"], facts["revision"]) == ("team/base", "team/base", commit)
    (model / "README.md").write_text("a better page")
    later = hub.commit("team/base", model)
    assert load_policy(tmp_path / "p", **FLOAT).lm.origin.hub.commit == commit, "the one it was trained on"
    assert load_policy(tmp_path / "p", revision="main", **FLOAT).lm.origin.hub.commit == later
    shutil.rmtree(hub.root / "repos/team/base" / commit)
    assert load_policy(tmp_path / "p", **FLOAT).lm.origin.hub.commit == later, "the first commit is gone"
    assert not caplog.records
    settings = json.loads((model / "tokenizer_config.json").read_text())
    template = model / "chat_template.jinja"
    if template.is_file():
        template.write_text(template.read_text() + " ")
    else:
        (model / "tokenizer_config.json").write_text(
            json.dumps(settings | {"chat_template": settings["chat_template"] + " "})
        )
    hub.commit("team/base", model)
    with caplog.at_level(logging.WARNING):
        load_policy(tmp_path / "p", revision="main", **FLOAT)
    assert "another tokenizer or chat template than in training" in caplog.text
    hub.commit("team/base", write_model(tmp_path / "other", seed=1))
    with pytest.raises(
        ModelError, match=r"team/base at the commit \w+ \(weights \w+\), but team/base at the commit"
    ):
        load_policy(tmp_path / "p", revision="main", **FLOAT)


def test_a_policy_of_a_folder_loads_from_the_hub_where_its_file_names_it(
    model: Path, tmp_path: Path, hub: FakeHub
) -> None:
    hub.commit("team/base", model)
    soup(load(str(model), "float32", "cpu")).save(tmp_path / "p")
    facts = read_json(tmp_path / "p/policy.json")
    assert facts["hub"] == "" and facts["model"] == str(model)
    write_json(tmp_path / "p/policy.json", facts | {"hub": "team/base"})
    model.rename(tmp_path / "gone")
    assert load_policy(tmp_path / "p", **FLOAT).lm.name == "team/base"


def test_a_policy_of_0_1_that_names_a_commit_loads_while_the_cache_has_it(
    model: Path, tmp_path: Path, hub: FakeHub
) -> None:
    commit = hub.commit("team/base", model)
    lm = load("team/base", "float32", "cpu")
    template = fingerprint(lm.tokenizer.chat_template, len(lm.tokenizer))
    old = fingerprint(f"team/base@{commit}", template)
    made = soup(lm)
    made.save(tmp_path / "p")
    facts = read_json(tmp_path / "p/policy.json")
    for key in ("weights", "hub", "revision"):
        del facts[key]
    write_json(tmp_path / "p/policy.json", facts | {"base": old})
    for adapter in (tmp_path / "p").glob("adapter-*/adapter.json"):
        write_json(adapter, read_json(adapter) | {"base": old})
    (model / "README.md").write_text("a better page")
    hub.commit("team/base", model)
    loaded = load_policy(tmp_path / "p", **FLOAT)
    assert loaded.lm.origin.hub.commit != commit and answer(loaded) == answer(made)
    loaded.save(tmp_path / "again")
    assert read_json(tmp_path / "again/policy.json")["base"] == lm.fingerprint
    shutil.rmtree(hub.root / "cache")
    with pytest.raises(ModelError, match=r"--revision"):
        load_policy(tmp_path / "p", **FLOAT)
    assert answer(load_policy(tmp_path / "p", revision=commit, **FLOAT)) == answer(made)


@pytest.fixture
def run(model: Path, tmp_path: Path, hub: FakeHub) -> Path:
    """A run with a measured policy on a model of the hub, whose record holds texts and places that are nobody else's business."""
    hub.commit("team/base", model)
    folder = tmp_path / "run"
    soup(load("team/base", "float32", "cpu")).save(folder / "policies/soup")
    points = [
        records.point(preference.as_dict(), [-3.0, w], [-4.0, w - 1], [-2.0, w + 1])
        for w, preference in enumerate(preference_grid(OBJECTIVES, 2))
    ]
    facts = records.record(OBJECTIVES, [records.policy("soup", points), records.policy("other", points)])
    facts |= {
        "prompts": ["a secret question"],
        "model": "/home/anna/base",
        "objectives_info": {"short": "function /home/anna/own.py:short", "good": "model team/judge"},
        "cautions": ["/home/anna/data.jsonl: short"],
    }
    write_json(folder / "front.json", facts)
    (folder / "README.md").write_text(
        "---\ndatasets: [team/data]\nlanguage: [en]\n---\nthe page of the run\n"
    )
    (folder / "policies/soup/notes.md").write_text("mine")
    return folder


def test_a_pushed_policy_is_pulled_and_loads_by_its_name(run: Path, tmp_path: Path, hub: FakeHub) -> None:
    said = answer(load_policy(run / "policies/soup", **FLOAT))
    assert (
        push(run / "policies/soup", "anna/soup", About(licence="apache-2.0")) == "https://hub.test/anna/soup"
    )
    assert hub.private == {"anna/soup": True}
    assert set(hub.files("anna/soup")) == {
        "README.md",
        "front.json",
        "front.png",
        "policy.json",
        *(f"adapter-{n}/adapter.{kind}" for n in range(2) for kind in ("json", "safetensors")),
    }
    assert answer(load_policy("anna/soup", **FLOAT)) == said
    facts = pull("anna/soup", tmp_path / "mine")
    assert facts.name == "soup" and answer(load_policy(tmp_path / "mine", **FLOAT)) == said
    for place in (Path("anna/soup"), tmp_path / "mine"):
        (source,) = find_sources(place)
        assert source.name == "soup" and source.surface is not None and source.base_name == "team/base"
    assert find_policy(Path("anna/soup")).is_dir()
    with pytest.raises(ModelError, match="holds other files"):
        pull("anna/soup", tmp_path / "mine")
    with pytest.raises(ModelError, match="anna/nothing"):
        load_policy("anna/nothing")
    with pytest.raises(ConfigError, match="expected the name of a repository on the hub, owner/name"):
        pull("soup", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_push_sends_no_text_of_the_data_and_no_place(run: Path, hub: FakeHub) -> None:
    push(run / "policies/soup", "anna/soup", About())
    for name, file in hub.files("anna/soup").items():
        raw = file.read_bytes()
        for secret in (b"secret question", b"/home/anna", b"answer to", str(run).encode()):
            assert secret not in raw, (name, secret)
    record = FrontRecord.read(hub.files("anna/soup")["front.json"])
    assert [policy.name for policy in record.policies] == ["soup"] and record.model == "team/base"
    assert record.objectives_info == {"short": "function own.py:short", "good": "model team/judge"}


def test_the_card_of_a_pushed_policy_is_read_by_the_hubs_library(run: Path, hub: FakeHub) -> None:
    about = About(licence="CC BY 4.0 (data)", languages=("en", "de"))
    push(run / "policies/soup", "anna/soup", about, public=True, revision="trial")
    assert hub.private == {"anna/soup": False} and ("anna/soup", "trial") in hub.branches
    head = ModelCard.load(hub.files("anna/soup", "trial")["README.md"]).data
    assert (head.base_model, head.get("base_model_relation")) == ("team/base", "adapter")
    assert (head.datasets, head.language, head.library_name) == (["team/data"], ["en", "de"], "paretune")
    assert (head.license, head.get("license_name")) == ("other", "cc-by-4.0-data")
    assert head.model_name and {result.metric_type for result in head.eval_results} == set(OBJECTIVES)
    scores = {
        (result.dataset_config, result.metric_type): result.metric_value for result in head.eval_results
    }
    assert scores["soup at short=1.0,good=0.0", "short"] == -3.0
    text = hub.files("anna/soup", "trial")["README.md"].read_text()
    assert "load_policy('anna/soup')" in text and "policies/" not in text and "report.html" not in text


def test_a_later_push_leaves_nothing_of_the_earlier_policy(run: Path, tmp_path: Path, hub: FakeHub) -> None:
    push(run / "policies/soup", "anna/soup", About())
    lm = load("team/base", "float32", "cpu")
    Policy.base(lm, OBJECTIVES).save(tmp_path / "alone")
    push(tmp_path / "alone", "anna/soup", About())
    assert set(hub.files("anna/soup")) == {"README.md", "policy.json"}
    assert ModelCard.load(hub.files("anna/soup")["README.md"]).data.base_model == "team/base"


def test_a_policy_of_a_folder_needs_the_name_on_the_hub_to_be_pushed(
    model: Path, tmp_path: Path, hub: FakeHub
) -> None:
    hub.commit("team/base", model)
    soup(load(str(model), "float32", "cpu")).save(tmp_path / "p")
    with pytest.raises(ConfigError, match="--base owner/name"):
        push(tmp_path / "p", "anna/soup", About())
    assert not hub.private
    push(tmp_path / "p", "anna/soup", About(), base="team/base")
    assert str(tmp_path) not in hub.files("anna/soup")["policy.json"].read_text()
    assert load_policy("anna/soup", **FLOAT).lm.name == "team/base"


def test_an_exported_lora_is_loaded_by_peft_alone(model: Path, tmp_path: Path, hub: FakeHub) -> None:
    peft = pytest.importorskip("peft")
    policy = soup(load(str(model), "float32", "cpu"))
    gates = policy.gates([HALF])
    export(policy, HALF, tmp_path / "lora")
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "lora"), dtype=torch.float32)
    from paretune.generation.generate import attached
    from paretune.models.adapter import stack

    with torch.no_grad():
        with attached(policy.lm, stack(policy.adapters)) as steering, steering.at(gates):
            expected = policy.lm.model(input_ids=IDS).logits
        torch.testing.assert_close(loaded(input_ids=IDS).logits, expected, atol=1e-5, rtol=1e-5)
    text = (tmp_path / "lora/README.md").read_text()
    assert "AutoPeftModelForCausalLM.from_pretrained" in text and "soup at short=0.5,good=0.5" in text
    assert ModelCard.load(tmp_path / "lora/README.md").data.base_model is None, (
        "a folder is no name on the hub"
    )


def test_loras_of_a_hub_model_name_it_and_its_commit(model: Path, tmp_path: Path, hub: FakeHub) -> None:
    commit = hub.commit("team/base", model)
    policy = soup(load("team/base", "float32", "cpu"))
    manifest = export_grid(policy, preference_grid(OBJECTIVES, 1), tmp_path / "loras")
    assert (manifest["base_model"], manifest["revision"]) == ("team/base", commit)
    for name in manifest["adapters"]:
        config = read_json(tmp_path / "loras" / name / "adapter_config.json")
        assert (config["base_model_name_or_path"], config["revision"]) == ("team/base", commit)
        head = ModelCard.load(tmp_path / "loras" / name / "README.md").data
        assert (head.base_model, head.get("base_model_relation")) == ("team/base", "adapter")
    (together, *_) = find_sources(tmp_path / "loras")
    assert together.named_base.revision == commit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model /home/anna/rewards/warm, index 1", "model warm, index 1"),
        ("~/own/warm.py:score", "warm.py:score"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("model team/judge, index 0", "model team/judge, index 0"),
        (r"C:\Users\anna\warm", "warm"),
    ],
)
def test_a_text_keeps_only_the_last_part_of_a_place(text: str, expected: str) -> None:
    assert without_places(text) == expected


def test_a_model_knows_adapters_by_all_its_names(model: Path, hub: FakeHub) -> None:
    commit = hub.commit("team/base", model)
    lm = load("team/base", "float32", "cpu")
    assert len(lm.fingerprints) == 2 and lm.fingerprint == lm.fingerprints[0]
    adapter = soup(lm).adapters[0]
    assert lm.own(replace(adapter, base=lm.fingerprints[1])).base == lm.fingerprint
    assert lm.own(replace(adapter, base="")).base == lm.fingerprint
    with pytest.raises(ModelError, match="trained on base model 0123"):
        lm.own(replace(adapter, base="0123"))
    assert lm.origin.earlier == (f"team/base@{commit}",)
