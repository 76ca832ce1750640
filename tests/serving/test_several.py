"""Several runs in one server: names, settings and votes of each stay its own, and the base model is there once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="serving needs paretune[serve]")
pytest.importorskip("playwright.sync_api", reason="the run of the studio's tests needs playwright")

import httpx
from playwright.sync_api import Page

from paretune.core.errors import ConfigError, ModelError
from paretune.core.preference import Preference
from paretune.models.language_model import LanguageModel
from paretune.policies.policy_file import BaseChoice
from paretune.serving.config import ServeConfig
from paretune.serving.local import LocalBackend
from paretune.serving.service import Service
from paretune.serving.several import run_configs, run_names
from paretune.serving.store.store import Store
from support.serve_world import live
from support.studio_world import Visit, browser, write_run

CPU = BaseChoice(dtype="float32", device="cpu")
ASK = {"messages": [{"role": "user", "content": "red sun"}]}
ANSWERS = {
    side: {"text": side, "preference": {"concise": w, "warm": 1 - w}}
    for side, w in (("first", 0.8), ("second", 0.2))
}


@pytest.fixture(scope="module")
def runs(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs: both have a soup, the second a minimum weight, another length and a policy `extra`."""
    folder = tmp_path_factory.mktemp("world") / "one"
    folder.mkdir()
    one = write_run(folder, lm, 2)
    two = Path(shutil.copytree(one, one.parent / "two"))
    (two / "policies" / "mod").rename(two / "policies" / "extra")
    shutil.rmtree(two / "policies" / "anchors")
    rule = {"objective": "concise", "rule": "length", "direction": "higher"}
    config = {"score": [rule], "serve": {"floors": {"warm": 0.1}}, "name": "two"}
    (two / "config.yaml").write_text(json.dumps(config))
    front = json.loads((two / "front.json").read_text())
    front["sampling"]["max_new_tokens"] = 6
    front["objectives_info"] = {"concise": "fewer words"}
    (two / "front.json").write_text(json.dumps(front))
    return [one, two]


@pytest.fixture(scope="module")
def world(runs: list[Path]) -> Iterator[tuple[httpx.Client, Service]]:
    configs = run_configs(runs, {})
    store = Store.open(str(runs[0] / "store.sqlite"))
    service = Service(LocalBackend.of_runs(list(zip(runs, configs, strict=True)), CPU), store, configs[0])
    with live(service) as address, httpx.Client(base_url=address, timeout=120) as client:
        yield client, service


def test_all_policies_are_listed_by_run(world: tuple[httpx.Client, Service], runs: list[Path]) -> None:
    client, _ = world
    names = ["soup", "anchors", "mod", "two/soup", "two/extra"]
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == names
    front = client.get("/api/front").json()
    assert [policy["name"] for policy in front["policies"]] == names
    told = [
        [run[key] for key in ("name", "policies", "objectives", "meanings", "run")] for run in front["runs"]
    ]
    assert told == [
        ["one", names[:3], ["concise", "warm"], {"concise": "+1 for every word fewer"}, str(runs[0])],
        ["two", names[3:], ["concise", "warm"], {"concise": "fewer words"}, str(runs[1])],
    ]
    by_name = {policy["name"]: policy for policy in front["policies"]}
    assert [by_name[name]["run"] for name in names] == ["one"] * 3 + ["two"] * 2
    soups = [by_name[name] for name in ("soup", "two/soup")]
    assert [soup["sampling"]["max_tokens"] for soup in soups] == [24, 6]
    assert [soup["scored"] for soup in soups] == [["concise", "warm"], ["concise"]]
    assert [soup["bounds"].get("warm", 0) for soup in soups] == [0, 0.1]
    assert soups[0]["points"] == soups[1]["points"] and not by_name["two/extra"]["points"]


def drawn(page: Page) -> str:
    """Return what stands on the axes of the front and below it."""
    return page.text_content("#chart") or ""


@pytest.mark.slow
def test_the_studio_offers_the_policies_of_all_runs(
    world: tuple[httpx.Client, Service], runs: list[Path]
) -> None:
    client, _ = world
    with browser() as context:
        visit = Visit(context, str(client.base_url).rstrip("/"))
        page = visit.open()
        groups = page.eval_on_selector_all(
            "#policy optgroup",
            "all => all.map(one => [one.label, [...one.children].map(option => option.value)])",
        )
        assert groups == [["one", ["soup", "anchors", "mod"]], ["two", ["two/soup", "two/extra"]]]
        assert "every word fewer" in drawn(page)
        visit.choose("two/soup")
        assert "fewer words" in drawn(page) and "every word" not in drawn(page)
        page.click("#tab-take")
        assert str(runs[1]) in page.inner_text("#export-command")
        visit.close()


def test_each_run_answers_under_its_own_settings(world: tuple[httpx.Client, Service]) -> None:
    client, service = world

    def chat(name: str, **more: object) -> httpx.Response:
        return client.post("/v1/chat/completions", json={**ASK, "model": name, "seed": 1, **more})

    for name, policy, most in (
        ("one/soup", "soup", 24),
        ("two/soup", "two/soup", 6),
        ("extra", "two/extra", 6),
    ):
        answer = chat(name).json()
        assert answer["model"] == name and answer["paretune"]["policy"] == policy
        assert answer["usage"]["completion_tokens"] <= most
    assert client.get("/v1/models/two/soup@concise=0.8,warm=0.2").json()["paretune"]["kind"] == "soup"
    low = {"preference": {"concise": 1.0, "warm": 0.0}, "max_tokens": 1}
    assert [chat(name, **low).status_code for name in ("soup", "two/soup")] == [200, 422]
    answers = {"answers": [{"text": "a b c"}]}
    scored = [
        client.post("/api/score", json={**ASK, **answers, "policy": name}).json()["scores"][0]["concise"]
        for name in ("soup", "two/soup")
    ]
    assert scored[0] == -scored[1] != 0
    assert service.policy("one/mod").name == "mod"


def test_votes_and_presets_of_one_run_are_not_those_of_another(world: tuple[httpx.Client, Service]) -> None:
    client, service = world
    store = service.require_store()
    for policy in ("two/soup", "soup", "soup"):
        vote = {**ASK, **ANSWERS, "policy": policy, "winner": "first"}
        assert client.post("/api/votes", json=vote).status_code == 201
    asked = [
        client.post("/api/elicit/next", json={"policy": policy}).json() for policy in ("soup", "two/soup")
    ]
    assert [one["posterior"]["votes"] for one in asked] == [2, 1]
    half = {"concise": 0.5, "warm": 0.5}
    kept = client.put("/api/presets/mine", json={"policy": "extra", "preference": half}).json()
    assert kept["policy"] == "two/extra"
    assert client.get("/v1/models/@mine").json()["paretune"]["kind"] == service.policy("extra").facts["kind"]
    store.save_preset("default", "older", "extra", Preference.of(half))  # of a policy that the first run had
    refused = client.get("/v1/models/@older")
    told = refused.json()["error"]["message"]
    assert refused.status_code == 404 and "'older' is of the model 'extra'" in told


@pytest.mark.parametrize("form", [{"n": 3}, {"n": 2, "stop": ["e", "a"]}])
def test_usage_is_that_of_all_answers_whole_or_streamed(
    world: tuple[httpx.Client, Service], form: dict
) -> None:
    client, _ = world
    asked = {**ASK, "model": "soup", "seed": 5, "max_tokens": 12, "temperature": 1.0, **form}

    def usage(**more: object) -> dict[str, int]:
        return client.post("/v1/chat/completions", json={**asked, **more}).json()["usage"]

    whole = usage()
    stream = {**asked, "stream": True, "stream_options": {"include_usage": True}}
    lines = client.post("/v1/chat/completions", json=stream).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert chunks[-1]["usage"] == whole
    each = [usage(n=1, seed=5 + k) for k in range(form.get("n", 1))]
    assert whole["prompt_tokens"] == each[0]["prompt_tokens"], "the prompt counts once"
    assert whole["completion_tokens"] == sum(one["completion_tokens"] for one in each)
    assert whole["total_tokens"] == whole["prompt_tokens"] + whole["completion_tokens"]


def test_runs_are_called_by_what_tells_them_apart(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("a/run", "b/run", "c")]
    for place in places:
        place.mkdir(parents=True)
    assert run_names(places) == ["a/run", "b/run", "c"]
    assert run_names([places[0], Path("owner/name@main")]) == ["run", "name"]
    with pytest.raises(ConfigError, match="this run is given twice"):
        run_names([places[0], places[0] / "."])
    (tmp_path / "x@y").mkdir()
    with pytest.raises(ConfigError, match="rename the folder"):
        run_names([places[0], tmp_path / "x@y"])
    assert run_names([tmp_path / "x@y"]) == ["x@y"], "a run alone may be called anything"


def test_options_go_to_the_runs_that_have_what_they_name(runs: list[Path]) -> None:
    options = {"policies": ["two/soup", "mod", "extra"], "floors": {"warm": 0.3}}
    one, two = run_configs(runs, options)
    assert (one.policies, two.policies) == (["mod"], ["soup", "extra"])
    assert two.floors == one.floors == {"warm": 0.3}
    for wrong, message in (
        ({"policies": ["nobody"]}, "--policy nobody: no run has it"),
        ({"policies": ["extra"]}, "leave the run out"),
        ({"floors": {"wram": 0.1}}, "--floor wram: no run has this objective; did you mean 'warm'"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_configs(runs, wrong)


def test_two_base_models_are_refused_with_what_to_do(runs: list[Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(runs[1], tmp_path / "other"))
    file = other / "policies" / "soup" / "policy.json"
    facts = json.loads(file.read_text())
    named = next(key for key in ("model", "base_model") if key in facts)
    file.write_text(json.dumps({**facts, named: "another-model"}))
    places = [(runs[0], ServeConfig()), (other, ServeConfig(policies=["soup"]))]
    with pytest.raises(ModelError, match=r"another-model.* cannot share a server; start one for each"):
        LocalBackend.of_runs(places, CPU)
