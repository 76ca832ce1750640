"""`paretune serve` as a process: it starts, says why it cannot, finishes what runs, and loses no vote when it is killed."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import signal
import threading
import time
from pathlib import Path
from subprocess import Popen

import httpx
import pytest

from paretune.serving.store.store import Store
from support import forked
from support.forked import COMMAND_LINE
from support.serve_world import CHAT, OBJECTIVES, wait_until
from support.server_process import process, untrained_run  # noqa: F401 - a fixture


@pytest.mark.slow
def test_sigterm_finishes_what_runs(run: Path, tmp_path: Path) -> None:
    with process(run, "--store", tmp_path / "s.sqlite") as (made, address):
        body = {**CHAT, "max_tokens": 200, "stream": True, "temperature": 1.5}
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=30) as response:
            events = response.iter_lines()
            next(events)
            made.send_signal(signal.SIGTERM)
            text = "\n".join(events)
        assert "[DONE]" in text and '"finish_reason": "' in text
        assert made.wait(20) == 0


@pytest.mark.slow
def test_starting_is_told_and_waited_for(run: Path, tmp_path: Path) -> None:
    with process(run, "--no-store") as (_, address):
        assert httpx.get(f"{address}/health").json()["status"] == "ok"
        assert httpx.get(f"{address}/api/audit").json()["error"]["code"] == "no_store"
        assert httpx.post(f"{address}/v1/chat/completions", json={**CHAT, "max_tokens": 2}).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--no-key"),
        (["--policy", "sopu"], "did you mean 'soup'"),
        (["--floor", "shrt=0.1"], "did you mean 'short'"),
        (["--floor", "short=0.6", "--floor", "good=0.6"], "sum to 1.2"),
        (["--preference", "short=1", "--floor", "good=0.2"], "default preference of soup"),
        (["--api-key-file", "nowhere"], "cannot read the API keys"),
        (["--upstream", "http://127.0.0.1:1"], "--upstream needs --manifest FILE"),
        (["--upstream", "http://127.0.0.1:1", "--manifest", "m.json"], "give a run folder, or"),
    ],
)
def test_what_keeps_it_from_starting(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    from support.command import call

    code, out, err = call(monkeypatch, capsys, "serve", run, "--no-store", *arguments)
    assert code == 2 and message in err and "Traceback" not in out + err


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_it(run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run / "policies/soup", tmp_path / "policies/soup")
    file = tmp_path / "policies/soup/policy.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model": str(tmp_path / "none")}))
    command = [*COMMAND_LINE, "serve", str(tmp_path), "--no-store", "--port", "0"]
    done = forked.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = f"its base model {tmp_path / 'none'} is not on this machine, and its name on the hub is not known"
    assert said in done.stderr and "--model FOLDER_OR_HUB_NAME" in done.stderr


def test_a_taken_port(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    from support.command import call

    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = call(monkeypatch, capsys, "serve", run, "--no-store", "--port", taken.getsockname()[1])
    assert code == 2 and "another server" in err


@pytest.mark.parametrize("moment", [0.15, 0.5])
@pytest.mark.slow
def test_kill_in_a_vote_storm_loses_no_acknowledged_vote(run: Path, tmp_path: Path, moment: float) -> None:
    store = tmp_path / "s.sqlite"
    acknowledged: dict[int, str] = {}
    with process(run, "--store", store) as (made, address):

        def storm(voter: int) -> None:
            with httpx.Client(timeout=10) as client:
                for number in range(10_000):
                    first = {"text": f"{voter}-{number}", "preference": {"short": 1}}
                    vote = {
                        "profile": f"voter {voter}",
                        "messages": CHAT["messages"],
                        "first": first,
                        "second": {"text": "b", "preference": {"good": 1}},
                        "winner": "first",
                    }
                    try:
                        response = client.post(f"{address}/api/votes", json=vote)
                    except httpx.HTTPError:
                        return
                    assert response.status_code == 201
                    acknowledged[response.json()["id"]] = first["text"]

        voters = [threading.Thread(target=storm, args=(voter,)) for voter in range(6)]
        for voter in voters:
            voter.start()
        assert wait_until(lambda: len(acknowledged) > 5, 20)
        time.sleep(moment)
        made.kill()
        for voter in voters:
            voter.join()
    kept = {vote.id: vote.first.text for vote in Store.open(str(store)).votes()}
    assert len(acknowledged) > 5 and acknowledged.items() <= kept.items()


@pytest.mark.slow
def test_some_seconds_of_unruly_clients(run: Path, tmp_path: Path) -> None:
    """`benchmarks/serving/soak.py` in small: nothing leaks, nothing is stuck, nothing fails.

    The server is a process from its start: its growth is a share of the memory that it has as one.
    """
    spec = importlib.util.spec_from_file_location(
        "soak", Path(__file__).parents[2] / "benchmarks/serving/soak.py"
    )
    assert spec and spec.loader
    soak = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(soak)
    with process(run, "--store", tmp_path / "s.sqlite", "--queue", 8, start=Popen) as (made, address):
        asyncio.run(soak.soak(address, made.pid, 2, 16, 60))  # what is loaded on first use
        found = asyncio.run(soak.soak(address, made.pid, 4, 16, 60, seed=1))
    assert not found["wrong"] and not found["stuck"] and found["growth"] < 0.1, found
    assert found["seen"]["leave"] and found["seen"]["gave up"] and found["seen"]["status 200"] > 20


@pytest.mark.model
@pytest.mark.slow
def test_the_embedded_model_answers_the_official_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streaming and whole, and mixed preferences in one batch as the library's own."""
    from concurrent.futures import ThreadPoolExecutor

    import openai
    import torch

    from paretune.core.preference import preference_grid
    from paretune.core.sampling import Sampling
    from paretune.data.rows import Message
    from paretune.models.adapter import Adapter
    from paretune.models.language_model import load
    from paretune.policies.policy import Policy
    from support.serve_world import live
    from support.served_run import ask, client_of, service_of

    monkeypatch.delenv("PARETUNE_CACHE", raising=False)  # the model is converted once for all tests
    lm = load(dtype="float32", device="cpu")
    random = torch.Generator().manual_seed(3)
    path, size = "model.layers.12.self_attn.o_proj", 576

    def update() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(size, 4, generator=random) * 0.2, torch.randn(4, size, generator=random) * 0.2

    policy = Policy.soup(
        "soup", lm, OBJECTIVES, [Adapter({path: update()}, 1.0, lm.fingerprint) for _ in OBJECTIVES]
    )
    policy.save(tmp_path / "policies/soup")
    grid = preference_grid(OBJECTIVES, 3)
    text = "How do I keep basil alive indoors?"
    expected = policy.generate([(Message("user", text),)] * 4, grid, Sampling(12, 1.0, 0.9), [7, 8, 9, 10])
    with live(service_of(tmp_path, tmp_path)) as address:
        client: openai.OpenAI = client_of(address)
        with ThreadPoolExecutor(4) as pool:
            answers = list(
                pool.map(lambda k: ask(client, "soup", text, grid[k], 7 + k, stream=k > 1), range(4))
            )
    assert answers == [response.text for response in expected] and len(set(answers)) > 1
