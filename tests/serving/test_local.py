"""A live server on real policies of a tiny model: the same text as the library's own, exported LoRAs, and a router before them."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from paretune.core.errors import ModelError, ParetuneError
from paretune.core.preference import Preference, preference_grid
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.models.language_model import LanguageModel
from paretune.policies.catalogue import find_sources
from paretune.policies.export import export_grid
from paretune.policies.policy import Policy
from paretune.policies.policy_file import BaseChoice
from paretune.serving.config import ServeConfig
from paretune.serving.events import Job
from paretune.serving.local import LocalBackend
from paretune.serving.service import Service
from paretune.serving.store.store import Store
from paretune.serving.upstream import Upstream
from support.serve_world import live, wait_until
from support.served_run import ask, client_of, service_of, trained_run  # noqa: F401 - a fixture

PROMPTS = ["red sun moon", "tree", "blue stone river good kind", "bad bad moon"]


@pytest.fixture(scope="module")
def address(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with live(service_of(run, tmp_path_factory.mktemp("store"))) as found:
        yield found


@pytest.mark.parametrize("name", ["dpo-soup", "mod", "modpo"])
@pytest.mark.slow
def test_mixed_preferences_get_the_librarys_own_answers(
    run: Path, lm: LanguageModel, address: str, name: str
) -> None:
    policy = Policy.load(run / "policies" / name, lm)
    grid = preference_grid(policy.objectives, 7)
    texts = [PROMPTS[k % len(PROMPTS)] for k in range(len(grid))]
    expected = policy.generate(
        [(Message("user", text),) for text in texts],
        grid,
        Sampling(12, 1.0, 0.9),
        [50 + k for k in range(len(grid))],
    )
    client = client_of(address)
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda k: ask(client, name, texts[k], grid[k], 50 + k, stream=bool(k % 2)), range(len(grid))
        )
        assert list(answers) == [response.text for response in expected]


@pytest.mark.slow
def test_conflicts_come_with_the_pieces_of_a_mixture(address: str) -> None:
    client = client_of(address)
    asked = {"model": "mod", "messages": [{"role": "user", "content": "red"}], "max_tokens": 6, "seed": 3}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    streamed = [c for chunk in chunks for c in (chunk.model_extra.get("paretune") or {}).get("conflicts", [])]
    assert (
        streamed == whole.model_extra["paretune"]["conflicts"][0]
        and len(streamed) == whole.usage.completion_tokens
    )


def test_the_base_model_answers_without_any_update(
    run: Path, lm: LanguageModel, address: str, tmp_path: Path
) -> None:
    asked = {
        "model": "base",
        "messages": [{"role": "user", "content": "red sun"}],
        "seed": 4,
        "max_tokens": 12,
    }
    client = client_of(address)
    answer = client.chat.completions.create(**asked, temperature=1.0, top_p=0.9)
    objectives = Policy.load(run / "policies/dpo-soup", lm).objectives
    plain = Policy.base(lm, objectives).generate(
        [(Message("user", "red sun"),)], [Preference.uniform(objectives)], Sampling(12, 1.0, 0.9), [4]
    )
    assert answer.choices[0].message.content == plain[0].text
    about = answer.model_extra["paretune"]
    assert (about["policy"], about["preference"], about["expected"], about["strength"]) == (
        "base",
        None,
        None,
        0,
    )
    assert httpx.get(f"{address}/api/front").json()["base"] == "base"
    assert client.models.retrieve("base").model_extra["paretune"]["kind"] == "base"
    with pytest.raises(openai.UnprocessableEntityError, match="follows no preference"):
        client.chat.completions.create(**asked, extra_body={"preference": {"short": 1.0}})
    floors = ServeConfig(floors={"short": 0.2}, policies=("dpo-soup",))
    with live(Service(LocalBackend.of(run, floors), None, floors)) as bounded:
        assert httpx.get(f"{bounded}/api/front").json()["base"] is None, "it would go round the floors"
        with pytest.raises(openai.NotFoundError):
            client_of(bounded).chat.completions.create(**asked)


def test_an_answer_that_was_cut_goes_on_where_it_ended(address: str, lm: LanguageModel) -> None:
    """The model reads what it has written behind the prompt, with no end of a turn between: its tokens are those of a response."""
    client = client_of(address)
    user = {"role": "user", "content": "red sun"}
    asked = {"model": "dpo-soup", "temperature": 0, "max_tokens": 5}
    whole = client.chat.completions.create(**asked, messages=[user])
    begun = [user, {"role": "assistant", "content": "good kind"}]
    more = client.chat.completions.create(
        **asked, messages=begun, extra_body={"continue_final_message": True}
    )
    written = len(lm.encode_response("good kind", truncated=True))
    assert more.usage.prompt_tokens == whole.usage.prompt_tokens + written
    with pytest.raises(openai.UnprocessableEntityError, match="last message is the assistant's"):
        client.chat.completions.create(**asked, messages=begun)
    with pytest.raises(openai.UnprocessableEntityError, match="goes on from an assistant's last message"):
        client.chat.completions.create(**asked, messages=[user], extra_body={"continue_final_message": True})


def test_stop_strings_prompts_that_are_too_long_and_raw_text(address: str) -> None:
    client = client_of(address)
    asked = {"model": "dpo-soup", "prompt": "red sun", "max_tokens": 12}
    texts = {seed: client.completions.create(**asked, seed=seed).choices[0].text for seed in range(8)}
    seed, text = max(texts.items(), key=lambda item: len(item[1].split()))
    word = text.split()[2]
    cut = client.completions.create(**asked, seed=seed, stop=[word])
    assert cut.choices[0].finish_reason == "stop" and cut.choices[0].text == text.partition(word)[0].strip()
    with pytest.raises(openai.BadRequestError, match="64") as caught:
        client.chat.completions.create(model="dpo-soup", messages=[{"role": "user", "content": "red " * 100}])
    assert caught.value.code == "context_length_exceeded"


def test_a_client_that_leaves_mid_stream_frees_its_row(run: Path, tmp_path: Path) -> None:
    service = service_of(run, tmp_path, max_rows=4, max_tokens=180)
    with live(service) as address:
        engine = service.backend.engine  # type: ignore[attr-defined]
        for _ in range(3):
            body = {
                "model": "dpo-soup",
                "messages": [{"role": "user", "content": "red"}],
                "max_tokens": 180,
                "stream": True,
            }
            with httpx.stream("POST", f"{address}/v1/chat/completions", json=body) as response:
                stream = response.iter_raw()
                next(stream)
            assert wait_until(lambda: engine.stats.running == 0 and service.active == 0, 5)
        assert sum(engine.stats.ended.values()) == 3


def test_a_dead_engine_ends_the_server(run: Path, tmp_path: Path) -> None:
    service = service_of(run, tmp_path, policies=["dpo-soup"])
    with live(service) as address:
        service.backend.engine.stop(drain=False)  # type: ignore[attr-defined]
        body = {"model": "dpo-soup", "messages": [{"role": "user", "content": "red"}]}
        assert (
            httpx.post(f"{address}/v1/chat/completions", json=body).json()["error"]["code"] == "unavailable"
        )

        def gone() -> bool:
            try:
                return httpx.get(f"{address}/health").status_code != 200
            except httpx.HTTPError:
                return True

        assert wait_until(gone, 10)


@pytest.mark.slow
def test_exported_loras_by_name_and_a_router_before_them(
    run: Path, lm: LanguageModel, address: str, tmp_path: Path
) -> None:
    policy = Policy.load(run / "policies/dpo-soup", lm)
    grid = preference_grid(policy.objectives, 2)
    export_grid(policy, grid, tmp_path / "loras")
    with live(service_of(tmp_path / "loras", tmp_path)) as upstream:
        names = [model.id for model in client_of(upstream).models.list()]
        assert names == ["dpo-soup", "short1-good0", "short0.5-good0.5", "short0-good1", "base"]
        config = ServeConfig(timeout=20)
        backend = Upstream.of(f"{upstream}/v1", tmp_path / "loras/manifest.json", "vllm", config)
        with live(Service(backend, None, ServeConfig(default_tokens=12))) as router:
            client = client_of(router)
            asked = Preference.parse("short=0.6,good=0.4")
            plain = ask(client_of(address), "dpo-soup", "red sun", grid[1], 4, temperature=0)
            for stream in (False, True):
                assert ask(client, "dpo-soup", "red sun", asked, 4, stream=stream, temperature=0) == plain
            about = client.chat.completions.create(
                model="dpo-soup@short=0.6,good=0.4",
                messages=[{"role": "user", "content": "red"}],
                max_tokens=2,
            ).model_extra["paretune"]
            assert about["upstream_model"] == "short0.5-good0.5" and about["snapped"]
            assert about["preference"] == {"short": 0.5, "good": 0.5}
            text = client.completions.create(model="dpo-soup", prompt="red", max_tokens=3, n=2)
            assert len(text.choices) == 2 and text.usage.completion_tokens >= 2
            with pytest.raises(openai.BadRequestError, match="64"):
                client.chat.completions.create(
                    model="dpo-soup", messages=[{"role": "user", "content": "red " * 100}]
                )
    # The upstream server is gone.
    with live(
        Service(Upstream.of(f"{upstream}/v1", tmp_path / "loras/manifest.json", "vllm", config), None)
    ) as router:
        with pytest.raises(openai.InternalServerError, match="cannot be reached") as caught:
            client_of(router).chat.completions.create(
                model="dpo-soup", messages=[{"role": "user", "content": "red"}]
            )
        assert caught.value.status_code == 503


def test_other_kinds_of_upstream_servers_are_asked_in_their_way(
    run: Path, lm: LanguageModel, tmp_path: Path
) -> None:
    policy = Policy.load(run / "policies/dpo-soup", lm)
    export_grid(policy, preference_grid(policy.objectives, 1), tmp_path / "loras")
    manifest = tmp_path / "loras/manifest.json"
    prompt = (Message("user", "red"),)
    request = Job("dpo-soup", prompt, Preference.parse("short=1,good=0"), Sampling(5, 0.5, 0.9), 3, ("x",))
    path, body = Upstream.of("http://127.0.0.1:1/v1", manifest, "sglang", ServeConfig()).request(request)
    assert path == "/chat/completions" and body["model"].endswith(":short1-good0") and body["stop"] == ["x"]
    with pytest.raises(ParetuneError, match="expected one of"):
        Upstream.of("http://127.0.0.1:1/v1", manifest, "ollama", ServeConfig())
    with pytest.raises(ParetuneError, match="http://"):
        Upstream.of("127.0.0.1:1", manifest, "vllm", ServeConfig())


def test_what_cannot_be_served(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing to serve"):
        find_sources(tmp_path)
    with pytest.raises(ModelError, match="did you mean 'modpo'"):
        find_sources(run, ["modop"])
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ModelError, match="it is no manifest of exported LoRAs"):
        find_sources(tmp_path)
    assert [source.name for source in find_sources(run, ["mod", "dpo-soup"])] == ["mod", "dpo-soup"]
    assert find_sources(run / "policies/modpo")[0].anchors


@pytest.mark.slow
def test_anchors_outside_the_bounds_are_never_served(run: Path, tmp_path: Path) -> None:
    with live(service_of(run, tmp_path, policies=["modpo"], floors={"good": 0.2})) as address:
        client = client_of(address)
        asked = {"model": "modpo", "messages": [{"role": "user", "content": "red"}], "max_tokens": 1}
        served = client.chat.completions.create(
            **asked, extra_body={"preference": {"short": 0.7, "good": 0.3}}
        )
        assert served.model_extra["paretune"]["preference"] == {"short": 0.5, "good": 0.5}
        with pytest.raises(openai.UnprocessableEntityError, match="nearest preference that modpo serves"):
            # Within the bounds itself, but nearer to the anchor at the corner.
            client.chat.completions.create(**asked, extra_body={"preference": {"short": 0.78, "good": 0.22}})


@pytest.mark.slow
def test_two_servers_on_one_store(run: Path, tmp_path: Path) -> None:
    vote = {
        "messages": [{"role": "user", "content": "red"}],
        "first": {"text": "a", "preference": {"short": 1}},
        "second": {"text": "b", "preference": {"good": 1}},
        "winner": "first",
    }
    services = [service_of(run, tmp_path, policies=["dpo-soup"]) for _ in range(2)]
    with live(services[0]) as one, live(services[1]) as other:
        failed: list[int] = []

        def storm(address: str) -> None:
            with httpx.Client(timeout=20) as client:
                for _ in range(20):
                    if client.post(f"{address}/api/votes", json=vote).status_code != 201:
                        failed.append(1)
                body = {"model": "dpo-soup", "messages": vote["messages"], "max_tokens": 1}
                if client.post(f"{address}/v1/chat/completions", json=body).status_code != 200:
                    failed.append(2)

        threads = [threading.Thread(target=storm, args=(address,)) for address in (one, other, one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        records = httpx.get(f"{one}/api/audit").json()["records"]
        assert len(records) == 4
    assert len(Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}").votes()) == 80


@pytest.mark.parametrize("asked", [None, "auto", "float32", "bfloat16"])
def test_the_number_format_is_that_of_the_run_unless_another_is_asked_for(
    run: Path, asked: str | None
) -> None:
    config = ServeConfig()
    assert LocalBackend.of(run, config, BaseChoice(dtype=asked)).dtype == (asked or "float32")


def test_policies_of_several_number_formats_ask_for_one(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "policies", tmp_path / "policies")
    file = tmp_path / "policies/mod/policy.json"
    file.write_text(file.read_text().replace("float32", "bfloat16"))
    with pytest.raises(ModelError, match="number formats bfloat16, float32; choose one with --dtype"):
        LocalBackend.of(tmp_path, ServeConfig())
    assert LocalBackend.of(tmp_path, ServeConfig(), BaseChoice(dtype="auto")).dtype == "auto"
    assert LocalBackend.of(tmp_path, ServeConfig(policies=("mod",))).dtype == "bfloat16"
