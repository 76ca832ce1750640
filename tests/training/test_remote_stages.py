"""Stages of training whose answers a LoRA server draws: a real one as a process, and one that refuses in every way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paretune.core.errors import ConfigError, EndpointError, TrainingError
from paretune.core.preference import preference_grid
from paretune.core.sampling import Sampling
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message
from paretune.generation.endpoint import Endpoint, LoRA, Question
from paretune.generation.generate import attached, generate
from paretune.generation.sample import ask
from paretune.methods.base import Inputs
from paretune.methods.ric import goal_answers
from paretune.methods.ric import method as ric
from paretune.methods.ric.method import RiCConfig
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel
from paretune.policies.policy import Policy
from paretune.runs.config import RunConfig
from paretune.runs.parse import parse_config
from paretune.runs.run import train
from paretune.scoring.scorer import build_scorer
from paretune.training.lab import Lab
from paretune.training.loop import attach
from paretune.training.remote_stages import ask_stage
from support.adapters import TRAINING, adapters_equal
from support.endpoint_server import (  # noqa: F401 - a fixture
    Behaviour,
    Server,
    impatient,
    serving,
)
from support.live_lora import Live, fresh_server, started_process  # noqa: F401 - fixtures
from support.world import make_dataset

OBJECTIVES = ("short", "good")
QUICK = replace(TRAINING, steps=10, checkpoint_every=100)
SPLITS = {"train": make_dataset(10), "validation": make_dataset(4, seed=9)}
NEAR_ZERO = 1e-6  # the temperature of RiC is above 0; here it is greedy
METHODS = {
    "ric": {"iterations": 2, "prompts": 14, "online_steps": 2, "temperature": NEAR_ZERO, "top_p": 1.0},
    "paretohqd": {"k": 4, "steps": 3, "stage2_steps": 2, "prompts": 7, "drop_collapsed": False},
    "sipo": {"reviewer": "base", "conflicts": 3},
}
SCORE = [
    {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"},
    {"objective": "good", "rule": "regex", "pattern": "good|kind", "how": "count"},
]


@pytest.fixture(scope="module")
def adapter(lm: LanguageModel) -> Adapter:
    """A LoRA of rank 4 that changes what is said."""
    steering, scale = attach(lm, TRAINING)
    try:
        made = steering.adapter(scale, {})
    finally:
        steering.detach()
    generator = torch.Generator().manual_seed(3)
    factors = {
        path: (torch.randn(U.shape, generator=generator) * 0.3, V) for path, (U, V) in made.factors.items()
    }
    return replace(made, factors=factors)


GREEDY = Sampling(max_new_tokens=12, temperature=0.0, batch_size=4)
PROMPTS = [row.prompt for row in make_dataset(9, seed=4).rows]


def here(lm: LanguageModel, adapter: Adapter | None) -> list[tuple[str, bool]]:
    """Return what the library draws itself."""
    ids = [lm.encode_prompt(prompt) for prompt in PROMPTS]
    if adapter is None:
        drawn = generate(lm, ids, GREEDY, range(9))
    else:
        with attached(lm, adapter) as steering:
            drawn = generate(lm, ids, GREEDY, range(9), steering, adapter.gates().expand(9, -1))
    return [(response.text, response.truncated) for response in drawn]


@pytest.mark.parametrize("style", ["vllm", "sglang"])
@pytest.mark.slow
def test_greedy_answers_are_those_drawn_here(
    lm: LanguageModel, live: Live, adapter: Adapter, tmp_path: Path, style: str
) -> None:
    live.be(style=style)
    lab, endpoint = Lab(lm, tmp_path), Endpoint(live.url)
    found = {
        who: [
            (a.text, a.truncated)
            for a in ask_stage(lab, endpoint, who, PROMPTS, GREEDY, range(9), "sampling")
        ]
        for who in (adapter, None)
    }
    assert found[adapter] == here(lm, adapter) != found[None] == here(lm, None)
    told = live.told()
    assert told["loaded"] == [] and len(told["asked"]) == 18
    (name,) = {body["model"] for body in told["asked"]} - {"base"}
    assert name.startswith("base:paretune-" if style == "sglang" else "paretune-")
    assert [path.name for path in (tmp_path / "cache/loras").iterdir()] == [name.split(":")[-1][:-9]]


def config_of(url: str | None, stages: list[str], **more: object) -> RunConfig:
    values: dict[str, Any] = {
        "score": SCORE,
        "methods": METHODS,
        "preferences": 3,
        "sampling": {"max_new_tokens": 24, "temperature": 0.0, "batch_size": 4},
    }
    if url:
        values["endpoint"] = {"url": url, "stages": stages, "concurrency": 3, **more}
    return parse_config(values)


def trained(name: str, lm: LanguageModel, folder: Path, url: str | None = None, **more: object) -> Policy:
    """Train a method as a run does, its answers drawn by the server at ``url``."""
    config, lab = config_of(url, [name], **more), Lab(lm, folder, QUICK)
    lab.say = lambda message: None  # type: ignore[method-assign]
    scorers = [build_scorer(spec) for spec in SCORE]
    return train(name, config, lab, SPLITS, preference_grid(OBJECTIVES, 2), scorers)


@pytest.mark.parametrize(("name", "models", "questions"), [("ric", 2, 28), ("paretohqd", 3, 21)])
@pytest.mark.slow
def test_a_method_through_the_server_is_the_method(
    lm: LanguageModel,
    live: Live,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    models: int,
    questions: int,
) -> None:
    """Greedy: the same answers, and so the same adapters to the bit; a second run, and one without its stages, ask nothing."""
    # The tiny tokenizer reads its words without a space between them as one unknown word, and so other tokens than were drawn.
    monkeypatch.setattr(goal_answers, "is_collapsed", lambda tokens: False)
    expected = trained(name, lm, tmp_path / "here")
    found = trained(name, lm, tmp_path / "there", live.url)
    assert all(map(adapters_equal, found.adapters, expected.adapters))
    told = live.told()
    assert told["loaded"] == [] and len(told["asked"]) == questions
    assert len({body["model"] for body in told["asked"]}) == models
    tags = [" <rm1_score> " in body["messages"][-1]["content"] for body in told["asked"]]
    assert all(tags) if name == "ric" else not any(tags)
    again = trained(name, lm, tmp_path / "there", "http://127.0.0.1:9/v1")
    assert all(map(adapters_equal, again.adapters, expected.adapters)), "the address may change"
    for folder in ("samples", "answers"):
        for stage in (tmp_path / "there" / folder).glob("*"):
            (stage / "stage.json").unlink()
    trained(name, lm, tmp_path / "there", "http://127.0.0.1:9/v1")
    trained(name, lm, tmp_path / "there", live.url, model="base")
    assert len(live.told()["asked"]) == 2 * questions, "another model is another draw"
    trained(name, lm, tmp_path / "there")
    assert len(live.told()["asked"]) == 2 * questions


@pytest.mark.slow
def test_reviews_by_the_base_model(lm: LanguageModel, live: Live, tmp_path: Path) -> None:
    """A random model's reviews hold no suggestion, which ends the method; samples are mixtures and stay here."""
    for folder, url in (("here", None), ("there", live.url)):
        with pytest.raises(TrainingError, match="holds a numbered or dashed suggestion"):
            trained("sipo", lm, tmp_path / folder, url)
    stages = [tmp_path / folder / "sipo" for folder in ("here", "there")]
    reviews = [json.loads((stage / "1-reviews/responses.json").read_text()) for stage in stages]
    assert reviews[0] == reviews[1] and len({text for text, _ in reviews[0]}) > 1
    asked = live.told()["asked"]
    assert len(asked) == len(reviews[0]) and {body["model"] for body in asked} == {"base"}
    with pytest.raises(TrainingError, match="holds a numbered or dashed suggestion"):
        trained("sipo", lm, tmp_path / "there", live.url)
    assert len(live.told()["asked"]) == len(asked)


@pytest.mark.parametrize("style", ["vllm", "sglang"])
@pytest.mark.slow
def test_a_draw_that_was_cut_off_goes_on(
    lm: LanguageModel, live: Live, adapter: Adapter, tmp_path: Path, style: str
) -> None:
    """The server refuses in the middle and keeps the LoRA loaded, as after a kill; at temperature 1, by each row's seed."""
    sampling = replace(GREEDY, temperature=1.0)

    def drawn(folder: str) -> list[str]:
        endpoint, lab = Endpoint(live.url, concurrency=1), Lab(lm, tmp_path / folder)
        answers = ask_stage(lab, endpoint, adapter, PROMPTS, sampling, range(9), "sampling")
        return [answer.text for answer in answers]

    live.be(style=style)
    whole = drawn("whole")
    live.be(style=style, most=6, unloads=False)
    with pytest.raises(EndpointError, match=r"answer 7: status 422: no more\. 6 of 9 answers are kept"):
        drawn("cut")
    before = live.told()
    live.client().post("/control", json={"style": style})
    assert len(before["loaded"]) == 1 == len(live.told()["loaded"])
    assert drawn("cut") == whole
    told = live.told()
    assert len(told["asked"]) == 3 and told["loaded"] == []
    assert ask(Endpoint(live.url), [Question("", PROMPTS[0], 0)], GREEDY, tmp_path)


CANNOT = r"knows neither http\S+/v1/load_lora_adapter nor http\S+\d/load_lora_adapter.*VLLM_ALLOW_RUNTIME"


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ({"style": "neither"}, CANNOT),
        ({"rank": 2}, r"of rank 4: status 500: LoRA rank is greater.*--max-lora-rank 4 or more"),
        ({"rank": 2, "style": "sglang"}, r"of rank 4: status 400: LoRA rank is greater.*target-modules all"),
    ],
)
def test_a_server_that_cannot_load(
    lm: LanguageModel, live: Live, tmp_path: Path, control: dict[str, object], message: str
) -> None:
    """One message, at once; the offline stage is kept, and the same run goes on when the server can."""
    live.be(**control)
    with pytest.raises(EndpointError, match=message) as told:
        trained("ric", lm, tmp_path, live.url)
    assert "remove the method from endpoint.stages" in str(told.value) and live.told()["asked"] == []
    assert (tmp_path / "adapters/ric-offline/stage.json").is_file()


REFUSALS: dict[str, tuple[Behaviour, str]] = {
    "404": ((404, {}, b'{"detail": "Not Found"}'), CANNOT),
    "405": ((405, {}, b'{"detail": "Method Not Allowed"}'), CANNOT),
    "400": ((400, {}, b'{"success": false, "error_message": "LoRA is not enabled"}'), "LoRA is not enabled.*--enable-lora"),
    "401": ((401, {}, b'{"error": "no"}'), "status 401: no; the key in the variable PARETUNE_ENDPOINT_KEY is mis"),
    "403": ((403, {}, b'{"error": {"message": "updating is off"}}'), "403: updating is off.*VLLM_ALLOW_RUNTIME"),
    "500": ((500, {}, b'{"error": {"message": "rank"}}'), "status 500: rank. The server"),
    "503": ((503, {}, b"busy"), "status 503: busy, at the last of 2 tries. The server"),
    "reset": ("reset", "connection broke.*at the last of 2 tries"),
}  # fmt: skip


def lora(folder: Path) -> LoRA:
    return LoRA("paretune-0", folder, 8)


def asked_of(server: Server, folder: Path) -> list[str]:
    """Ask two questions of a LoRA in ``folder``."""
    questions = [Question("paretune-0", (Message("user", "hello"),), seed) for seed in (1, 2)]
    endpoint = Endpoint(server.url, retries=1, timeout=5)
    return [a.text for a in ask(endpoint, questions, GREEDY, folder, lora=lora(folder))]


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_are_one_message(name: str, tmp_path: Path) -> None:
    answer, message = REFUSALS[name]
    with serving(Server(lambda body, _: answer if "lora_name" in body else None)) as server:
        with pytest.raises(EndpointError, match=message) as told:
            asked_of(server, tmp_path)
        assert all("lora_name" in body for body in server.bodies)
        assert len(server.bodies) == (2 if name in ("404", "405", "503", "reset") else 1)
    assert server.url in str(told.value) and str(told.value).count("\n") == 0 and len(str(told.value)) < 900


def test_a_folder_that_the_server_does_not_see(tmp_path: Path) -> None:
    """vLLM's answer has the status of an address that is not known, but names the LoRA."""

    def behave(body: dict, tries: int) -> Behaviour | None:
        if "lora_path" not in body:
            return None
        told = f"Loading lora {body['lora_name']} failed: No adapter found for {body['lora_path']}"
        return 404, {}, json.dumps({"error": {"message": told}}).encode()

    with serving(Server(behave)) as server:
        with pytest.raises(
            EndpointError, match=r"No adapter found for .*must see this folder under this path"
        ):
            asked_of(server, tmp_path)
        assert len(server.bodies) == 1


def test_loading_passes_over_what_passes(tmp_path: Path) -> None:
    """A gateway that is busy once, then a server that has the LoRA already; an unload that fails costs nothing."""
    busy, there = (503, {}, b"busy"), (400, {}, b'{"message": "the adapter has already been loaded"}')

    def behave(body: dict, tries: int) -> Behaviour | None:
        if "lora_path" in body:
            return busy if tries == 1 else there
        return (500, {}, b"") if "lora_name" in body else None

    with serving(Server(behave)) as server:
        assert asked_of(server, tmp_path) == ["hello 1", "hello 2"]
        loads = [body for body in server.bodies if "lora_path" in body]
        assert loads == [{"lora_name": lora(tmp_path).served, "lora_path": str(tmp_path)}] * 2
        assert {body["model"] for body in server.bodies if "model" in body} == {lora(tmp_path).served}
        asked = len(server.bodies)
        assert asked_of(server, tmp_path) == ["hello 1", "hello 2"] and len(server.bodies) == asked
    with pytest.raises(EndpointError, match=r"cannot be reached.*is the server running"):
        asked_of(server, tmp_path / "elsewhere")


def test_sglang_needs_to_know_its_model(tmp_path: Path) -> None:
    """Two base models are offered: none is guessed, and the LoRA does not stay."""

    def behave(body: dict, tries: int) -> Behaviour | None:
        unknown = "lora_path" in body and tries == 1  # below /v1
        return (404 if unknown else 200, {}, b"{}") if body else None

    with serving(Server(behave)) as server:
        server.models = ["tiny", "large", "paretune-left-by-a-kill"]
        with pytest.raises(EndpointError, match="offers tiny, large; choose one"):
            asked_of(server, tmp_path)
        assert server.bodies[-1] == {"lora_name": lora(tmp_path).served}


def test_two_runs_do_not_unload_each_other(tmp_path: Path) -> None:
    assert lora(tmp_path / "a").served != lora(tmp_path / "b").served


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.slow
def test_of_several_processes_the_first_asks(
    lm: LanguageModel, live: Live, tmp_path: Path, sharded: bool
) -> None:
    from support.together import together

    expected = trained("paretohqd", lm, tmp_path / "one", live.url)
    live.be()
    texts = together(_paretohqd, lm, tmp_path / "two", live.url, sharded)
    assert texts[0] == texts[1] == _answers(tmp_path / "one") and len(live.told()["asked"]) == 21
    assert len(expected.adapters) == 3


def _paretohqd(lm: LanguageModel, folder: Path, url: str, sharded: bool) -> list[tuple[str, ...]]:
    from paretune.models.distributed import shard_weights, start

    start(lm.device)
    if sharded:
        shard_weights(lm.model, lm.device)
    trained("paretohqd", lm, folder, url)
    return _answers(folder)


def _answers(folder: Path) -> list[tuple[str, ...]]:
    return [row.responses for row in ScoredDataset.read(folder / "answers/paretohqd/answers.jsonl.gz").rows]


@pytest.mark.parametrize(
    ("methods", "stages", "message"),
    [
        ({"ric": {}}, ["rik"], "endpoint.stages: no method 'rik'; did you mean 'ric'"),
        ({"modpo": {}}, ["modpo"], "modpo trains on no answers.*paretohqd, ric, sipo, morlhf, gdpo"),
        (
            {"mine": {"method": "ric", "form": "tokens"}},
            ["mine"],
            "form tokens trains embeddings.*form levels",
        ),
        ({"sipo": {}}, ["sipo"], "sipo: the reviews come from a mixture.*set its reviewer to base"),
        ({"ric": {}}, "ric", "endpoint"),
    ],
)
def test_stages_that_no_endpoint_can_draw(methods: dict, stages: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"methods": methods, "endpoint": {"url": "http://x/v1", "stages": stages}})


def test_stages_that_need_no_server() -> None:
    methods = {"ric": {"iterations": 0, "form": "tokens"}, "sipo": {"refine": False}, "paretohqd": {}}
    config = parse_config({"methods": methods, "endpoint": {"url": "http://x/v1", "stages": ["ric", "sipo"]}})
    assert config.endpoint_of("ric") is config.endpoint and config.endpoint_of("paretohqd") is None
    assert parse_config({"methods": methods}).endpoint_of("ric") is None
    again = RunConfig.model_validate_json(config.model_dump_json())
    assert again.endpoint == config.endpoint, "as the tasks of a sweep get it"


def test_tokens_are_refused_before_training(lm: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no LoRA server takes"):
        inputs = Inputs(
            Lab(lm, tmp_path),
            **SPLITS,
            scorers=[build_scorer(s) for s in SCORE],
            endpoint=Endpoint("http://x/v1"),
        )
        ric.train(inputs, RiCConfig(form="tokens"))
    assert not (tmp_path / "adapters").exists()
