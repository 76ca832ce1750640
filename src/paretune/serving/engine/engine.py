"""Continuous batching: requests of different policies and preferences share one forward, and join and leave between tokens."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from paretune.core.errors import ConfigError, ModelError
from paretune.generation.batch import Batch, Slot
from paretune.models.adapter import stack
from paretune.models.steering import Steering
from paretune.policies.mixed import kept_candidate
from paretune.policies.policy import Policy
from paretune.serving.engine.admission import Intake
from paretune.serving.engine.detokenise import Characters, StoppableText
from paretune.serving.engine.events import (
    Answer,
    Busy,
    End,
    Event,
    Job,
    Piece,
    PromptTooLong,
    Reason,
    Stopped,
    Stream,
    Usage,
    gather,
)

__all__ = [
    "Answer",
    "Busy",
    "End",
    "Engine",
    "EngineStats",
    "Event",
    "Job",
    "Piece",
    "PromptTooLong",
    "Stopped",
    "Stream",
    "Usage",
    "gather",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineStats:
    """Figures of one moment, and totals since the start.

    Attributes:
        running: jobs whose tokens are being made, those whose prompts are being read included.
        waiting: jobs in the queue.
        rows: rows of the next forward; a mixture takes several.
        cached_tokens: positions in the cache, padding included.
        tokens: drawn in all.
        prompt_tokens: read in all.
        tokens_per_second: drawn lately, while there was work.
        first_tokens: answers that have got their first token.
        first_token_seconds: the sum of their times from submission to it.
        ended: answers by the reason of their end.
    """

    running: int
    waiting: int
    rows: int
    cached_tokens: int
    tokens: int
    prompt_tokens: int
    tokens_per_second: float
    first_tokens: int
    first_token_seconds: float
    ended: Mapping[Reason, int]


@dataclass(eq=False)
class _Request:
    """A job with its rows: one, or as many as its policy draws candidates."""

    job: Job
    stream: Stream
    rows: list[Slot]
    text: StoppableText
    characters: Characters
    deadline: float | None
    submitted: float
    begun: float | None = None
    first_token: float | None = None
    handed: int = 0  # tokens of the answer that were looked at
    given: int = 0  # tokens that are out in pieces
    ended: bool = False

    @property
    def copies(self) -> int:
        """Rows of a forward."""
        return sum(len(row.kinds) for row in self.rows)

    @property
    def length(self) -> int:
        """The most positions that a row can take."""
        return self.stream.prompt_tokens + self.job.sampling.max_new_tokens

    def over(self, now: float) -> bool:
        """Tell whether nobody waits for the answer any more."""
        return self.stream.cancelled or (self.deadline is not None and now >= self.deadline)


@dataclass(eq=False)
class _Totals:
    tokens: int = 0
    prompt_tokens: int = 0
    first_tokens: int = 0
    first_token_seconds: float = 0.0
    service_seconds: float = 2.0  # a running mean over answers
    ended: dict[Reason, int] = field(default_factory=dict)
    lately: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=128))


class Engine:
    """Makes answers on a thread of its own, which owns the model from :meth:`start` to :meth:`stop`.

    The adapters of all policies are attached once, side by side, and a row's gates choose among them. Meanwhile nothing else
    may run the model. Usable as a context: leaving it finishes what was accepted.

    Attributes:
        policies: what is served, name -> policy.
        lm: the model that all policies share.
        context: positions of the model.
        max_rows: rows of one forward at most.
    """

    def __init__(
        self,
        policies: Mapping[str, Policy],
        *,
        max_rows: int = 32,
        max_waiting: int = 256,
        max_prompt_tokens: int | None = None,
        max_cached_tokens: int = 32_768,
        prefill_tokens: int = 256,
    ) -> None:
        """Prepare to serve ``policies`` (name -> policy).

        Args:
            policies: all of one base model.
            max_rows: rows of one forward; a job of MOD takes one for each of its copies.
            max_waiting: jobs in the queue, beyond which :class:`Busy` is raised.
            max_prompt_tokens: of one prompt; by default what the model has positions for.
            max_cached_tokens: rows times positions that the cache may grow to; jobs wait until they fit.
            prefill_tokens: prompt tokens read between two tokens of running rows: more reads faster, less disturbs less.

        Raises:
            ModelError: no policy, or policies of different models.
            ConfigError: a limit that is too small.
        """
        limits = {
            "max_rows": max_rows,
            "max_waiting": max_waiting,
            "max_cached_tokens": max_cached_tokens,
            "prefill_tokens": prefill_tokens,
        }
        for limit, value in limits.items():
            if value < 1:
                raise ConfigError(f"{limit} must be at least 1, got {value}")
        self._intake = Intake.of(policies, max_prompt_tokens, max_cached_tokens)
        for name in policies:
            needed = self._intake.most_rows(name)
            if needed > max_rows:
                raise ConfigError(
                    f"{name} takes up to {needed} rows for one answer, and max_rows is {max_rows}; raise it"
                )
        self.policies, self.lm, self.context = self._intake.policies, self._intake.lm, self._intake.context
        self.max_rows = max_rows
        self._max_waiting, self._max_cached = max_waiting, max_cached_tokens
        self._prefill = prefill_tokens
        self._changed = threading.Condition()
        # Guarded by the condition.
        self._waiting: deque[_Request] = deque()
        self._state: Literal["new", "running", "draining", "stopping", "stopped"] = "new"
        self._failure = ""
        # Of the engine's thread alone.
        self._thread: threading.Thread | None = None
        self._steering: Steering | None = None
        self._running: dict[Slot, _Request] = {}
        self._batch, self._reading = self._empty(), self._empty()
        self._totals = _Totals()

    # The world outside.

    def start(self) -> None:
        """Attach the adapters and begin to take jobs.

        Raises:
            ModelError: other adapters are attached to the model.
            Stopped: started before.
        """
        with self._changed:
            if self._state != "new":
                raise Stopped("this engine was started before; make a new one")
            _ = self.lm.stops  # looked up here, not in several threads at once
            if self._intake.adapters:
                self._steering = Steering.attach_adapter(
                    self.lm.model, stack(self._intake.adapters), base=self.lm.fingerprint
                )
            self._batch, self._reading = self._empty(), self._empty()
            self._state = "running"
            self._thread = threading.Thread(target=self._work, name="paretune-engine", daemon=True)
            self._thread.start()

    def stop(self, drain: bool = True, timeout: float | None = None) -> None:
        """Take no more jobs and give the model back.

        With ``drain`` all accepted jobs are finished first, for at most ``timeout`` seconds; what is left is cancelled.
        """
        with self._changed:
            if self._state in ("new", "running", "draining"):
                self._state = "draining" if drain and self._state != "new" else "stopping"
            self._changed.notify_all()
        if self._thread is None:
            return
        self._thread.join(timeout if drain else None)
        with self._changed:
            if self._state == "draining":
                self._state = "stopping"
            self._changed.notify_all()
        self._thread.join()
        if self._steering is not None and self._steering.layers:
            self._steering.detach()

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop(drain=kind is None)

    def submit(
        self, job: Job, deadline: float | None = None, on_event: Callable[[Event], None] | None = None
    ) -> Stream:
        """Queue a job and return the stream of its answer; may be called from any thread.

        Args:
            job: what to make.
            deadline: on the clock of ``time.monotonic``; a job that is not finished then ends with reason ``timeout``.
            on_event: called in the engine's thread with each event, and has to return at once: for asyncio
                ``lambda event: loop.call_soon_threadsafe(queue.put_nowait, event)``. If it raises, the job is cancelled.

        Raises:
            Busy: the queue is full.
            PromptTooLong: see there.
            Stopped: see there.
            ParetuneError: what :meth:`Intake.rows` refuses.
        """
        self._require_room()
        rows = self._intake.rows(job)
        for row in rows:
            _ = row.uniforms  # drawn here, not while others wait for their tokens
        request = _Request(
            job,
            Stream(len(rows[0].prompt), on_event, self._wake),
            rows,
            StoppableText(job.stop),
            Characters(self._decode),
            deadline,
            time.monotonic(),
        )
        with self._changed:
            self._require_room()
            self._waiting.append(request)
            self._changed.notify_all()
        return request.stream

    @property
    def stats(self) -> EngineStats:
        """Return the figures of this moment."""
        totals, batches = self._totals, (self._batch, self._reading)
        lately = list(totals.lately)
        seconds = sum(second for second, _ in lately)
        return EngineStats(
            running=len(set(self._running.copy().values())),
            waiting=len(self._waiting),
            rows=sum(batch.copies for batch in batches),
            cached_tokens=sum(batch.cached for batch in batches),
            tokens=totals.tokens,
            prompt_tokens=totals.prompt_tokens,
            tokens_per_second=sum(tokens for _, tokens in lately) / seconds if seconds else 0.0,
            first_tokens=totals.first_tokens,
            first_token_seconds=totals.first_token_seconds,
            ended=dict(totals.ended),
        )

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _require_room(self) -> None:
        if self._state != "running":
            new = self._state == "new"
            raise Stopped(self._failure or ("start the engine first" if new else "the engine is stopping"))
        if len(self._waiting) >= self._max_waiting:
            rounds = len(self._waiting) / self.max_rows
            raise Busy(
                f"{len(self._waiting)} requests are waiting already; try again later",
                max(1.0, round(rounds * self._totals.service_seconds, 1)),
            )

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.lm.tokenizer.decode(list(tokens), skip_special_tokens=True))

    # The engine's thread.

    def _work(self) -> None:
        failure, message = "the engine was stopped; make a new one", ""
        reason: Reason = "cancelled"
        try:
            while self._await_work():
                self._iterate()
        except BaseException as error:
            failure = message = f"the engine's thread died: {error!r}"
            reason = "error"
            logger.exception("the engine's thread died")
        with self._changed:
            self._state, self._failure = "stopped", failure
            left = [*dict.fromkeys(self._running.values()), *self._waiting]
            self._waiting.clear()
        for request in left:
            self._end(request, reason, message)
        self._running.clear()
        self._batch, self._reading = self._empty(), self._empty()

    def _await_work(self) -> bool:
        """Wait until there is something to do; tell whether to go on."""
        with self._changed:
            while not self._running and not self._waiting and self._state == "running":
                self._changed.wait()
            return self._state == "running" or (
                self._state == "draining" and bool(self._running or self._waiting)
            )

    def _iterate(self) -> None:
        """Let jobs leave and join, then draw one token for each running row."""
        began, drawn = time.monotonic(), self._totals.tokens
        self._let_go()
        if not self._reading.rows:
            self._reading = self._admitted()
        if self._reading.rows and self._attempt(self._read, self._reading) and not self._reading.unread:
            self._deliver(self._reading)
            if self._reading.rows:
                self._attempt(self._join, self._batch, self._reading)
        if self._batch.rows and self._attempt(self._batch.step, self._batch):
            self._deliver(self._batch)
        self._totals.lately.append((time.monotonic() - began, self._totals.tokens - drawn))

    def _let_go(self) -> None:
        """End what was cancelled, or has run out of time."""
        now = time.monotonic()
        with self._changed:
            waiting = [request for request in self._waiting if request.over(now)]
            for request in waiting:
                self._waiting.remove(request)
        running = [request for request in dict.fromkeys(self._running.values()) if request.over(now)]
        for request in (*waiting, *running):
            self._end(request, "cancelled" if request.stream.cancelled else "timeout")
        if running:
            self._leave(self._batch)
            self._leave(self._reading)

    def _leave(self, batch: Batch) -> None:
        """Let the rows go that are finished, or whose jobs have ended."""
        over = [row for row in batch.rows if self._running[row].ended or row.finished(self.lm.stops)]
        for row in over:
            del self._running[row]
        batch.leave(over)

    def _admitted(self) -> Batch:
        """Take jobs from the queue whose prompts are read together, as many as there is room for."""
        copies, width = self._batch.copies, 0
        longest = max((request.length for request in self._running.values()), default=0)
        taken: list[_Request] = []
        with self._changed:
            while self._waiting:
                request = self._waiting[0]
                copies += request.copies
                longest = max(longest, request.length)
                width = max(width, request.stream.prompt_tokens)
                if copies > self.max_rows or copies * longest > self._max_cached:
                    break
                if taken and (copies - self._batch.copies) * width > self._prefill:
                    break
                taken.append(self._waiting.popleft())
            self._running.update((row, request) for request in taken for row in request.rows)
        now = time.monotonic()
        for request in taken:
            request.begun = now
            self._totals.prompt_tokens += request.stream.prompt_tokens
        return Batch(self.lm, self._steering, [row for request in taken for row in request.rows])

    def _read(self) -> None:
        self._reading.read(max(1, self._prefill // self._reading.copies))

    def _join(self) -> None:
        self._batch.join(self._reading)
        self._reading = self._empty()

    def _attempt(self, work: Callable[[], None], *batches: Batch) -> bool:
        """Do a part of the work on batches; when it fails, their jobs end and the engine goes on without them."""
        try:
            work()
        except Exception as error:
            logger.exception("the model failed")
            for row in [row for batch in batches for row in batch.rows]:
                self._end(self._running.pop(row), "error", f"the model failed: {error}")
            if self._reading in batches:
                self._reading = self._empty()
            if self._batch in batches:
                self._batch = self._empty()
            return False
        return True

    def _empty(self) -> Batch:
        return Batch(self.lm, self._steering)

    def _deliver(self, batch: Batch) -> None:
        """Hand the tokens just drawn to their streams, and let finished rows leave."""
        self._totals.tokens += len(batch.rows)
        for request in dict.fromkeys(self._running[row] for row in batch.rows):
            try:
                self._hand_on(request)
            except Exception as error:
                logger.exception("an answer failed")
                self._end(request, "error", f"the answer failed: {error}")
        self._leave(batch)

    def _hand_on(self, request: _Request) -> None:
        """Pass on what the newest token of a job made certain, and end the job when it is finished."""
        stops, rows = self.lm.stops, request.rows
        if request.first_token is None:
            request.first_token = time.monotonic() - request.submitted
            self._totals.first_tokens += 1
            self._totals.first_token_seconds += request.first_token
        if not all(math.isfinite(row.logp) for row in rows):
            raise ModelError("the model gave numbers that are not finite")
        if len(rows) > 1:
            if not all(row.finished(stops) for row in rows):
                return
            # Only now it is known which candidate is the answer.
            rows = [rows[kept_candidate([row.normalisers for row in rows], request.job.seed)]]
        (row,) = rows
        for token in row.tokens[request.handed :]:
            request.handed += 1
            last = request.handed == len(row.tokens) and row.finished(stops)
            text = request.text.push(request.characters.push(token))
            if last:
                text += request.text.push(request.characters.finish())
                text += request.text.finish()
            if text or last or request.text.stopped:
                given, request.given = request.given, request.handed
                conflicts = tuple(-log_z for log_z in row.normalisers[given : request.given])
                self._put(request, Piece(text, tuple(row.tokens[given : request.given]), conflicts))
            if last or request.text.stopped:
                self._end(request, "stop" if request.text.stopped or token in stops else "length")
                return

    def _end(self, request: _Request, reason: Reason, message: str = "") -> None:
        if request.ended:
            return
        request.ended = True
        totals = self._totals
        totals.ended[reason] = totals.ended.get(reason, 0) + 1
        if request.begun is not None:
            totals.service_seconds += (time.monotonic() - request.begun - totals.service_seconds) / 16
        usage = Usage(request.stream.prompt_tokens, request.handed)
        self._put(request, End(reason, usage, request.first_token, message))

    def _put(self, request: _Request, event: Event) -> None:
        try:
            request.stream.put(event)
        except Exception:
            logger.exception("the reader of an answer failed; the answer is given up")
            request.stream.cancelled = True
