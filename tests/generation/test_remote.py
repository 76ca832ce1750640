"""Drawing from a server: one that misbehaves in every way, and `paretune serve` as a process of its own."""

from __future__ import annotations

import json
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import pytest

from paretune.core.errors import ConfigError, DataError, EndpointError
from paretune.core.sampling import Sampling
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message
from paretune.generation import remote
from paretune.generation.endpoint import Endpoint, Question
from paretune.generation.sample import ask, sample_remotely
from paretune.models.language_model import LanguageModel
from paretune.runs.parse import parse_config
from paretune.runs.prepare import prepare_data
from paretune.training.lab import Lab
from support.command import call
from support.endpoint_server import Behaviour, Server, completion, impatient, serving  # noqa: F401 - a fixture
from support.forked import COMMAND_LINE, Forked
from support.serve_world import wait_until
from support.server_process import process, untrained_run  # noqa: F401 - a fixture
from support.world import make_dataset

SAMPLING = Sampling(max_new_tokens=8, temperature=0.7, top_p=0.9)


def questions(count: int = 10, model: str = "") -> list[Question]:
    return [Question(model, (Message("user", f"question {n}"),), 100 + n) for n in range(count)]


EXPECTED = [f"question {n} {100 + n}" for n in range(10)]
ERROR = b'{"error": {"message": "out of memory"}}'
PASSING: dict[str, Behaviour] = {
    "500": (500, {}, ERROR),
    "503": (503, {}, b"<html>busy</html>"),
    "429": (429, {"retry-after": "1"}, b'{"error": "slow down"}'),
    "not JSON": (200, {}, b"<html>hello</html>"),
    "nested": (200, {}, b"[" * 100_000),
    "not UTF-8": (200, {}, b"\xff\xfe{"),
    "no choices": (200, {}, b'{"choices": []}'),
    "list": (200, {}, b"[1, 2]"),
    "null": (200, {}, b"null"),
    "content is a number": (200, {}, completion(3)),
    "content is a list": (200, {}, completion(["a"])),
    "no finish_reason": (200, {}, completion("a", None)),
    "aborted": (200, {}, completion("a", "abort")),
    "cut body": (200, {"content-length": "1000", "connection": "close"}, b"{"),
    "reset": "reset",
    "slow": "slow",
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again(name: str, tmp_path: Path) -> None:
    """Every third question fails on its first try."""

    def behave(body: dict, tries: int) -> Behaviour | None:
        return PASSING[name] if body and body["seed"] % 3 == 0 and tries == 1 else None

    with serving(Server(behave)) as server:
        endpoint = Endpoint(server.url, concurrency=3, retries=2, timeout=0.5 if name == "slow" else 20)
        answers = ask(endpoint, questions(), SAMPLING, tmp_path)
        assert [answer.text for answer in answers] == EXPECTED
        assert all(answer.tokens == 3 and not answer.truncated for answer in answers)
        assert len(server.bodies) == 13
        assert server.most <= 3 or name == "slow", "the server is still at what was given up"
        body = min(server.bodies, key=lambda b: b["seed"])
        assert body == {
            "model": "tiny",
            "messages": [{"role": "user", "content": "question 0"}],
            "max_tokens": 8,
            "temperature": 0.7,
            "top_p": 0.9,
            "seed": 100,
        }


@pytest.mark.parametrize("name", PASSING)
@pytest.mark.slow
def test_what_does_not_pass_ends_in_one_message_and_loses_nothing(name: str, tmp_path: Path) -> None:
    well = False

    def behave(body: dict, tries: int) -> Behaviour | None:
        return PASSING[name] if body and body["seed"] == 106 and not well else None

    with serving(Server(behave)) as server:
        endpoint = Endpoint(
            server.url, "tiny", concurrency=1, retries=1, timeout=0.5 if name == "slow" else 20
        )
        with pytest.raises(EndpointError, match=r"answer 7: .*2 tries.*6 of 10 answers are kept") as told:
            ask(endpoint, questions(), SAMPLING, tmp_path)
        assert server.url in str(told.value) and len(str(told.value)) < 900
        assert len(server.bodies) == 8
        well = True
        endpoint = Endpoint(server.url, "tiny", timeout=20)
        assert [a.text for a in ask(endpoint, questions(), SAMPLING, tmp_path)] == EXPECTED
        assert len(server.bodies) == 8 + 4, "six answers were not asked for again"
    assert [a.text for a in ask(endpoint, questions(model="tiny"), SAMPLING, tmp_path)] == EXPECTED


def test_requests_that_a_retry_cannot_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = (400, {}, b'{"message": "maximum context length is 8"}')
    with serving(Server(lambda body, _: refusal if body else None)) as server:
        with pytest.raises(
            EndpointError, match=r"answer 1: status 400: maximum context length is 8. 0 of 10"
        ):
            ask(Endpoint(server.url, concurrency=1), questions(), SAMPLING, tmp_path)
        assert len(server.bodies) == 10, "another prompt might have been answered"
    with serving(Server(lambda body, _: (401, {}, b'{"error": {"message": "no key"}}'))) as server:
        with pytest.raises(
            EndpointError, match="401: no key; the key in the variable PARETUNE_ENDPOINT_KEY is miss"
        ):
            ask(Endpoint(server.url), questions(), SAMPLING, tmp_path)
        monkeypatch.setenv("PARETUNE_ENDPOINT_KEY", "sesame")
        with pytest.raises(EndpointError, match="is refused"):
            ask(Endpoint(server.url), questions(), SAMPLING, tmp_path)
        assert server.keys == {None, "Bearer sesame"} and not server.bodies
    with serving(Server()) as server:
        server.models = ["tiny", "large"]
        with pytest.raises(EndpointError, match="offers tiny, large; choose one"):
            ask(Endpoint(server.url), questions(), SAMPLING, tmp_path)
        with pytest.raises(
            EndpointError, match=r"does not have the model 'tyny'; did you mean 'tiny'.*large"
        ):
            ask(Endpoint(server.url, "tyny"), questions(model="tyny"), SAMPLING, tmp_path)
        with pytest.raises(EndpointError, match="does the address lack its /v1"):
            ask(Endpoint(server.url.removesuffix("/v1")), questions(), SAMPLING, tmp_path)
        assert not server.bodies
    began = time.perf_counter()
    with pytest.raises(EndpointError, match=r"cannot be reached.*is the server running"):
        ask(Endpoint(server.url), questions(), SAMPLING, tmp_path)
    assert time.perf_counter() - began < 5, "a wrong address is said at once"


@pytest.mark.parametrize(
    "refusal",
    [
        (400, {}, b'{"error": {"message": "maximum context length is 8"}}'),
        (413, {}, b"too large"),
        (200, {}, completion(None, "content_filter")),
    ],
    ids=["too long", "too large", "filtered"],
)
@pytest.mark.parametrize("seed", [100, 106])
def test_a_refused_prompt_is_kept_as_refused_and_the_others_are_drawn(
    refusal: Behaviour, seed: int, tmp_path: Path
) -> None:
    def behave(body: dict, _: int) -> Behaviour | None:
        return refusal if body and body["seed"] == seed else None

    with serving(Server(behave)) as server:
        endpoint = Endpoint(server.url, "tiny", concurrency=1)
        answers = ask(endpoint, questions(), SAMPLING, tmp_path, skip=True)
        assert [a.text for a in answers] == ["" if n == seed - 100 else t for n, t in enumerate(EXPECTED)]
        assert [bool(a.refused) for a in answers] == [n == seed - 100 for n in range(10)]
        assert len(server.bodies) == 10, "a refusal is not tried again"
    assert ask(endpoint, questions(model="tiny"), SAMPLING, tmp_path, skip=True) == answers, (
        "nor after a stop"
    )


def test_where_no_prompt_may_be_missing_the_error_names_the_refused_row(tmp_path: Path) -> None:
    def behave(body: dict, _: int) -> Behaviour | None:
        return (400, {}, b'{"message": "too long"}') if body and body["seed"] == 100 else None

    named = [replace(question, source=f"data.jsonl:{n}") for n, question in enumerate(questions(), 1)]
    with serving(Server(behave)) as server:
        with pytest.raises(EndpointError, match=r"answer 1 \(data.jsonl:1\): status 400: too long. 9 of 10"):
            ask(Endpoint(server.url, "tiny"), named, SAMPLING, tmp_path)
        server.behave = lambda body, k: None
        assert [a.text for a in ask(Endpoint(server.url, "tiny"), named, SAMPLING, tmp_path)] == EXPECTED
        assert len(server.bodies) == 11


def test_arguments_of_the_chat_template_are_sent_and_decide_what_is_kept(tmp_path: Path) -> None:
    with serving(Server()) as server:
        for arguments in ({}, {"enable_thinking": False}, {"enable_thinking": False}):
            endpoint = Endpoint(server.url, chat_template=arguments)
            ask(endpoint, questions(2), SAMPLING, tmp_path, "asking")
        sent = [body.get("chat_template_kwargs") for body in server.bodies]
    assert sent.count(None) == 2 and sent.count({"enable_thinking": False}) == 2, "the third time all is kept"


def test_a_server_that_goes_away_for_good(tmp_path: Path) -> None:
    """Connections are refused in the middle: what came is kept."""
    with serving(Server()) as server:

        def behave(body: dict, tries: int) -> Behaviour | None:
            if body and body["seed"] == 105:
                server.shutdown()
                server.server_close()
                return "reset"
            return None

        server.behave = behave
        endpoint = Endpoint(server.url, concurrency=1, retries=1)
        with pytest.raises(EndpointError, match="5 of 10 answers are kept"):
            ask(endpoint, questions(), SAMPLING, tmp_path)


def test_truncation_and_empty_answers(tmp_path: Path) -> None:
    kinds = [completion("cut off", "length"), completion(None, tokens=None), completion("a \ud800 b")]
    with serving(Server(lambda body, _: (200, {}, kinds[body["seed"] - 100]) if body else None)) as server:
        answers = ask(Endpoint(server.url), questions(3), SAMPLING, tmp_path)
    assert [(a.text, a.truncated, a.tokens) for a in answers] == [
        ("cut off", True, 3),
        ("", False, None),
        ("a ? b", False, 3),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"url": "localhost:8000"}, "the endpoint 'localhost:8000' is no address"),
        ({"url": "http://"}, "the endpoint 'http://' is no address"),
        ({"url": "http://x:99999/"}, "the endpoint 'http://x:99999/' is no address"),
        ({"concurrency": 0}, "^concurrency must be at least 1, got 0$"),
    ],
)
def test_settings_that_cannot_be(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Endpoint(**{"url": "http://x/v1", **values})


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    with serving(Server()) as server:
        ask(Endpoint(server.url), questions(3), SAMPLING, tmp_path)
        (part,) = tmp_path.glob("*.json")
        for text in ("[[1]]", "[]", "[3, 4, 5]"):
            part.write_text(text)
            with pytest.raises(DataError, match=rf"{part.name}.*delete the file"):
                ask(Endpoint(server.url), questions(3), SAMPLING, tmp_path)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.slow
def test_the_command_line_goes_on_after_a_kill(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kill: signal.Signals,
) -> None:
    """A process is killed when a part is on the disk; the same command ends with the same bytes."""
    monkeypatch.setattr(remote, "PART", 64)
    make_dataset(70).select([]).write(tmp_path / "prompts.jsonl")
    hold = threading.Event()

    def behave(body: dict, tries: int) -> Behaviour | None:
        if body and body["seed"] >= 100 and not hold.is_set():
            hold.wait(30)
        return None

    with serving(Server(behave)) as server:

        def arguments(target: str) -> list[str]:
            options = ["--responses", "2", "--endpoint", server.url, "--concurrency", "3"]
            return ["data", "sample", str(tmp_path / "prompts.jsonl"), str(tmp_path / target), *options]

        killed = Forked([*COMMAND_LINE, *arguments("killed.jsonl")], stderr=PIPE)
        try:
            assert wait_until(lambda: server.together == 3 and len(server.bodies) >= 103, 60)
            killed.send_signal(kill)
            error = killed.communicate(timeout=30)[1].decode()
        finally:
            killed.kill()
            hold.set()
        assert killed.returncode == (-9 if kill == signal.SIGKILL else 130), error
        assert "Traceback" not in error and not (tmp_path / "killed.jsonl").exists()
        before = len(server.bodies)
        status, out, _ = call(monkeypatch, capsys, *arguments("killed.jsonl"))
        assert status == 0 and "140 responses, 0.0% cut, 420 tokens" in out
        kept = 64 if kill == signal.SIGKILL else 100
        assert len(server.bodies) - before == 140 - kept
        assert call(monkeypatch, capsys, *arguments("whole.jsonl"))[0] == 0
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "killed.jsonl.parts").exists()


def test_an_error_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(3).select([]).write(tmp_path / "prompts.jsonl")
    with serving(Server(lambda body, _: (200, {}, b"hello") if body else None)) as server:
        options = [tmp_path / "prompts.jsonl", tmp_path / "out.jsonl", "--endpoint", server.url]
        status, out, error = call(monkeypatch, capsys, "data", "sample", *options)
    assert status == 2 and error.count("\n") == 1 and "not an answer of OpenAI's API" in error
    assert "Traceback" not in out + error


@pytest.mark.slow
def test_a_served_policy_draws(run: Path, tmp_path: Path) -> None:
    """`paretune serve` as a process, asked at two preferences by name; the rows are those of the policy itself."""
    from paretune.core.preference import Preference
    from paretune.policies.saving import load_policy

    data = make_dataset(6).select([])
    policy = load_policy(run / "policies/soup", dtype="float32")
    with process(run, "--no-store", "--dtype", "float32") as (_, address):
        for text in ("short=0.7,good=0.3", "short=0,good=1"):
            endpoint = Endpoint(f"{address}/v1", f"soup@{text}")
            drawn, tokens = sample_remotely(endpoint, data, 2, SAMPLING, 5, tmp_path / "parts")
            prompts = [row.prompt for row in data.rows for _ in range(2)]
            seeds = [5 * 1_000_003 + n for n in range(12)]
            preference = Preference.parse(text, policy.objectives)
            expected = policy.generate(prompts, [preference] * 12, SAMPLING, seeds)
            texts = [text for row in drawn.rows for text in row.responses]
            assert texts == [response.text for response in expected if response.text]
            cut = [flag for row in drawn.rows for flag in row.truncated]
            assert cut == [r.truncated for r in expected if r.text]
            assert tokens > 0
        with pytest.raises(EndpointError, match="did you mean 'soup'"):
            sample_remotely(Endpoint(f"{address}/v1", "sopu"), data, 1, SAMPLING, 0, tmp_path / "parts")
        with pytest.raises(EndpointError, match="does not have the model 'soup@short=2,good=1'"):
            sample_remotely(
                Endpoint(f"{address}/v1", "soup@short=2,good=1"), data, 1, SAMPLING, 0, tmp_path / "parts"
            )


@pytest.mark.slow
def test_a_policy_is_judged_by_what_a_server_answers(run: Path, tmp_path: Path) -> None:
    """By name and preference, and by exported LoRAs: the points are those of the policy itself."""
    import numpy as np

    from paretune.core.preference import Preference, preference_grid
    from paretune.evaluation.evaluate import HeldOut, evaluate
    from paretune.evaluation.remote import drawn_by
    from paretune.policies.export import export_grid
    from paretune.policies.one_pass import chosen_logps
    from paretune.policies.saving import load_policy
    from paretune.runs.measure import measure_points
    from paretune.scoring.scorer import build_scorer

    policy, data = load_policy(run / "policies/soup", dtype="float32"), make_dataset(5)
    scorers = [
        build_scorer({"objective": name, "rule": "length", "unit": "words", "direction": way})
        for name, way in (("short", "lower"), ("good", "higher"))
    ]
    grid = preference_grid(policy.objectives, 2)
    held_out = HeldOut(
        [row.prompt for row in data.rows], [row.key for row in data.rows], scorers, SAMPLING, samples=2
    )
    expected = evaluate(policy, grid, held_out)
    export_grid(policy, grid, tmp_path / "loras")
    manifest = str(tmp_path / "loras/manifest.json")
    for place, source in ((run, "soup@"), (tmp_path / "loras", manifest)):
        with process(place, "--no-store", "--dtype", "float32") as (_, address):
            endpoint = Endpoint(f"{address}/v1", policies={"soup": source})
            settings = {
                "sampling": vars(SAMPLING),
                "evaluate": {"samples": 2},
                "methods": {"soup": {"method": "dpo-soup"}},
                "endpoint": {"url": endpoint.url, "policies": endpoint.policies},
            }
            lab = Lab(policy.lm, tmp_path / f"run-{len(source)}")
            measured = (parse_config(settings), lab, data, scorers, policy, grid)
            found = measure_points(*measured)
        assert [p.responses for p in measure_points(*measured).points] == [
            p.responses for p in found.points
        ], "the server is gone, and its answers are kept"
        for mine, own in zip(found.points, expected.points, strict=True):
            assert mine.responses == own.responses
            assert np.array_equal(mine.scores, own.scores)
            assert np.array_equal(mine.truncated, own.truncated)
            n = found.points.index(mine)
            ids = policy.lm.encode_prompt(data.rows[0].prompt)
            read = policy.lm.encode_response(mine.responses[0][0], bool(mine.truncated[0, 0]))
            logps = chosen_logps(policy.distribution(ids, read, grid[n]), read)
            assert mine.lengths[0, 0] == len(read)
            assert mine.logps[0, 0] == pytest.approx(float(logps.sum()), abs=1e-3)
            assert abs(mine.logps[0, 0] - mine.base_logps[0, 0]) > 1e-3
    draw = drawn_by(endpoint, policy, tmp_path / "parts")
    elsewhere = Preference.parse("short=0.25,good=0.75", policy.objectives)
    with pytest.raises(ConfigError, match=r"no LoRA at short=0.25.*export it with --grid"):
        draw([data.rows[0].prompt], [elsewhere], SAMPLING, [0])
    with pytest.raises(ConfigError, match=r"neither a manifest\.json"):
        drawn_by(Endpoint("http://x/v1", policies={"soup": "soup"}), policy, tmp_path)
    facts = json.loads(Path(manifest).read_text())
    Path(manifest).write_text(json.dumps({**facts, "policy": "panacea"}))
    with pytest.raises(ConfigError, match="holds LoRAs of panacea for short, good; expected those of soup"):
        drawn_by(endpoint, policy, tmp_path)


def test_a_run_draws_its_responses_by_its_endpoint(lm: LanguageModel, tmp_path: Path) -> None:
    bare = [replace(row, responses=(), truncated=()) for row in make_dataset(8).select([]).rows]
    ScoredDataset((), tuple(bare)).write(tmp_path / "bare.jsonl")
    rule = {"rule": "length", "unit": "words"}

    def behave(body: dict, tries: int) -> Behaviour | None:
        if not body:
            return None
        return 200, {}, completion(body["messages"][-1]["content"] + " and" * (body["seed"] % 3 + 1))

    with serving(Server(behave)) as server:
        values = {
            "data": {
                "source": str(tmp_path / "bare.jsonl"),
                "sample": 2,
                "splits": {"train": 0.25, "validation": 0.25, "test": 0.5},
            },
            "score": [
                {"objective": "short", "direction": "lower", **rule},
                {"objective": "long", "direction": "higher", **rule},
            ],
            "endpoint": {"url": server.url, "concurrency": 2},
        }
        for _ in range(2):
            splits, _ = prepare_data(parse_config(values), Lab(lm, tmp_path / "run"))
            assert len(server.bodies) == 12, "the second run asks nothing, and none asks for the test prompts"
    assert {part: len(rows.rows) for part, rows in splits.items()} == {"train": 2, "validation": 4, "test": 2}
    assert not any(row.responses for row in splits.pop("test").rows)
    texts = {row.prompt[-1].content: row.responses for part in splits.values() for row in part.rows}
    assert len(texts) == 6
    for prompt, responses in texts.items():
        assert len(responses) == 2 and all(text.startswith(prompt) for text in responses)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"endpoint": {"model": "tiny"}}, r"endpoint\.url is missing"),
        ({"endpoint": {"url": "http://x/v1", "modle": "a"}}, "did you mean 'model'"),
        ({"endpoint": {"url": "x"}}, "is no address"),
        ({"endpoint": {"url": "http://x/v1", "concurrency": 0}}, r"endpoint\.concurrency must be at least 1"),
        ({"endpoint": {"url": "http://x/v1", "policies": {"modpoo": "m@"}}}, "did you mean 'modpo'"),
        (
            {"methods": {"morlhf": {"endpoint": {"url": "http://x/v1"}}}},
            "a run has one endpoint, under endpoint:",
        ),
    ],
)
def test_what_a_config_may_not_ask_of_an_endpoint(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(values)
