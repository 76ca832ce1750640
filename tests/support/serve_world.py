"""A live server for tests: a backend that makes text without a model, and a server on a free port in a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import numpy as np

from paretune.core.preference import Preference
from paretune.fronts.surface import Surface
from paretune.serving.address import Address
from paretune.serving.backend import Served
from paretune.serving.config import ServeConfig
from paretune.serving.events import End, Event, Job, Overloaded, Piece, PromptTooLong, Reason, written
from paretune.serving.http.app import make_app
from paretune.serving.http.server import Server, configuration
from paretune.serving.run_facts import RunFacts
from paretune.serving.service import Service
from paretune.serving.store.store import Store

OBJECTIVES = ("short", "good")
CHAT = {"model": "soup", "messages": [{"role": "user", "content": "red sun"}]}


def make_surface() -> Surface:
    """A front of three measured preferences between two objectives."""
    means = np.array([[-1.0, 0.0], [-3.0, 1.5], [-6.0, 2.0]])
    weights = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    return Surface("soup", OBJECTIVES, weights, means, means - 0.5, means + 0.5)


class FakeAnswer:
    """An answer of `FakeBackend`."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    def cancel(self) -> None:
        """Stop at the next word."""
        self.cancelled.set()


class FakeBackend:
    """Answers with as many words as tokens are asked for, each with preference and seed, one per ``pace`` seconds."""

    failure = ""
    facts = RunFacts()
    base_model = None

    def __init__(self, pace: float = 0.0, most: int = 8, word: str = "") -> None:
        self.pace, self.most, self.word, self.running = pace, most, word, 0
        self.started = threading.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def served(self) -> Mapping[str, Served]:
        """A soup, and anchors at the corners."""

        def snap(preference: Preference) -> Preference:
            return Preference.one_hot("short" if preference["short"] >= 0.5 else "good", OBJECTIVES)

        uniform = Preference.uniform(OBJECTIVES)
        return {
            "soup": Served("soup", OBJECTIVES, uniform, lambda p: p.over(OBJECTIVES), make_surface(), {}),
            "anchors": Served("anchors", OBJECTIVES, uniform, snap, None, {"anchored": True}),
        }

    async def start(self) -> None:
        """Nothing to load."""
        self.started.set()

    async def stop(self) -> None:
        """Nothing to let go."""

    async def submit(
        self, jobs: Sequence[Job], on_event: Callable[[int, Event], None], timeout: float
    ) -> list[FakeAnswer]:
        """Start answers, all or none."""
        texts = [written(job.prompt) for job in jobs]
        if len(max(texts, key=len)) > 2000:
            raise PromptTooLong(f"a prompt of {len(max(texts, key=len))} tokens; expected at most 2000")
        if self.running + len(jobs) > self.most:
            raise Overloaded(f"{self.running} answers are waiting; try again", 3)
        return [self._begin(job, partial(on_event, n), timeout) for n, job in enumerate(jobs)]

    def _begin(self, job: Job, on_event: Callable[[Event], None], timeout: float) -> FakeAnswer:
        answer = FakeAnswer()
        self.running += 1

        async def write() -> None:
            reason: Reason = "length"
            try:
                end = time.monotonic() + timeout
                for k in range(job.sampling.max_new_tokens):
                    if answer.cancelled.is_set() or time.monotonic() > end:
                        reason = "cancelled" if answer.cancelled.is_set() else "timeout"
                        break
                    on_event(Piece(self.word or f"{job.preference['short']:g}/{job.seed}/{k} "))
                    await asyncio.sleep(self.pace)
            finally:
                self.running -= 1
                on_event(End(reason, 3, k))

        task = asyncio.get_running_loop().create_task(write())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return answer

    def upstream_name(self, preference: Preference) -> str | None:
        """Made here."""
        return None

    def stats(self) -> Mapping[str, float]:
        """Rows at work."""
        return {"running": self.running, "waiting": 0, "tokens": 1}


@contextmanager
def live(service: Service, at: Address | None = None) -> Iterator[str]:
    """Serve on a free port in a thread; yield the address."""
    at = at or Address(port=0)
    app = make_app(service, at)
    config = configuration(app, at)
    config.log_level = "warning"
    config.configure_logging()
    sock = config.bind_socket()
    server = Server(config, service, app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{sock.getsockname()[1]}"
    with httpx.Client(timeout=5) as client:

        def healthy() -> bool:
            with suppress(httpx.HTTPError):
                return client.get(f"{address}/health").status_code == 200
            return False

        wait_until(lambda: not thread.is_alive() or healthy(), 60)
    try:
        yield address
    finally:
        server.handle_exit(15, None)
        thread.join(30)
        sock.close()
        assert not thread.is_alive(), "the server did not stop"


def fake_service(folder: Path, backend: FakeBackend | None = None, **settings: object) -> Service:
    """A service over a fake backend with a store in ``folder``."""
    store = Store.open(f"sqlite:///{folder / 'store.sqlite'}")
    return Service(backend or FakeBackend(), store, ServeConfig(**settings))  # type: ignore[arg-type]


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Wait for something to become true, and say whether it did; ask less often the longer it takes."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < seconds:
        if condition():
            return True
        time.sleep(min(0.2, 0.01 + waited / 20))
    return False
