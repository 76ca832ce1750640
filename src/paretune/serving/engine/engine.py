"""Continuous batching: jobs of different policies and preferences share one forward, and join and leave between tokens."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Literal

from paretune.generation.batch import Batch, Slot
from paretune.models.adapter import stack
from paretune.models.kv_cache import RowStates, keys_follow_length
from paretune.models.steering import Steering
from paretune.policies.policy import Policy
from paretune.serving.config import EngineLimits
from paretune.serving.engine.admission import Intake
from paretune.serving.engine.detokenise import Characters, StoppableText
from paretune.serving.engine.kept_texts import KeptTexts, Reader
from paretune.serving.engine.request import Request
from paretune.serving.engine.stats import EngineStats, Totals
from paretune.serving.engine.stream import Stream
from paretune.serving.events import End, Event, Job, Overloaded, Piece, Reason, Unavailable, Unsupported

logger = logging.getLogger(__name__)


class Engine:
    """An engine that generates answers on a thread of its own, which owns the model from :meth:`start` to :meth:`stop`.

    The adapters of all policies are attached once, side by side, and the gates of a row choose among them. Until the
    engine stops nothing else may run the model. As a context manager the engine finishes all accepted jobs on exit.

    Attributes:
        policies: Served policies, name -> policy.
        lm: The base model of all policies.
        context: Number of positions of the model.
        limits: Limits on jobs, rows and memory.
    """

    def __init__(self, policies: Mapping[str, Policy], limits: EngineLimits = EngineLimits()) -> None:  # noqa: B008 - it is frozen
        """Prepare to serve ``policies`` (name -> policy), all of one base model.

        Raises:
            ModelError: There is no policy, or the policies have different base models.
            ConfigError: A policy needs more rows per answer than ``limits.max_rows``.
        """
        self._intake = Intake.of(policies, limits)
        self.policies, self.lm, self.context = self._intake.policies, self._intake.lm, self._intake.context
        self.limits = limits
        self._changed = threading.Condition()
        # Guarded by the condition.
        self._waiting: deque[Request] = deque()
        self._state: Literal["new", "running", "draining", "stopping", "stopped"] = "new"
        self._failure = ""
        # Used by the engine's thread alone.
        self._thread: threading.Thread | None = None
        self._steering: Steering | None = None
        self._running: dict[Slot, Request] = {}
        self._batch = self._empty()
        self._readings: list[Batch] = []
        self._kept = KeptTexts(0 if keys_follow_length(self.lm.model.config) else limits.kept_tokens)
        self._turn = 0
        self._totals = Totals()

    # Called from any thread

    def start(self) -> None:
        """Attach the adapters and start to accept jobs.

        Raises:
            ModelError: Other adapters are attached to the model.
            Unavailable: The engine was started before.
        """
        with self._changed:
            if self._state != "new":
                raise Unavailable("this engine was started before; create a new one")
            _ = self.lm.stops  # looked up here, not in several threads at once
            if self._intake.adapters:
                self._steering = Steering.attach_adapter(
                    self.lm.model, stack(self._intake.adapters), base=self.lm.fingerprint
                )
            self._batch = self._empty()
            self._state = "running"
            self._thread = threading.Thread(target=self._work, name="paretune-engine", daemon=True)
            self._thread.start()

    def stop(self, drain: bool = True, timeout: float | None = None) -> None:
        """Accept no more jobs and release the model.

        Args:
            drain: Finish all accepted jobs first; otherwise cancel them.
            timeout: Seconds after which the jobs that remain are cancelled; None waits for all.
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
        """Queue one job and return the stream of its answer, see :meth:`submit_all`."""
        (stream,) = self.submit_all([job], deadline, [on_event])
        return stream

    def submit_all(
        self,
        jobs: Sequence[Job],
        deadline: float | None = None,
        on_events: Sequence[Callable[[Event], None] | None] | None = None,
    ) -> list[Stream]:
        """Queue jobs, all of them or none, and return the streams of their answers.

        Args:
            jobs: The answers to generate.
            deadline: Value of ``time.monotonic`` at which an unfinished job ends with reason ``timeout``.
            on_events: One callback per job in the engine's thread that receives each event and must return at once: for asyncio
                ``lambda event: loop.call_soon_threadsafe(queue.put_nowait, event)``. If it raises, the job is cancelled.

        Raises:
            Overloaded: The queue is full.
            Unsupported: So many jobs at once would not fit into an empty queue.
            PromptTooLong: A prompt exceeds a limit.
            Unavailable: The engine has not started, is stopping, or has failed.
            ParetuneError: A job is refused by :meth:`Intake.rows`.
        """
        with self._changed:
            self._require_room([1] * len(jobs))
        requests = []
        for job, on_event in zip(jobs, on_events or [None] * len(jobs), strict=True):
            rows = self._intake.rows(job)
            for row in rows:
                _ = row.uniforms  # sampled here, not while other rows wait for their tokens
            stream = Stream(len(rows[0].prompt), on_event, self._wake)
            # What the template writes in place of a thought is no part of an answer; raw text has no template.
            header = "" if isinstance(job.prompt, str) else self.lm.template.header.strip()
            reader, kept = self._intake.call_reader(job)
            text, characters = StoppableText(job.stop, header), Characters(partial(self.lm.text, more=kept))
            requests.append(Request(job, stream, rows, text, characters, deadline, reader))
        with self._changed:
            self._require_room([request.copies for request in requests])
            self._waiting.extend(requests)
            self._changed.notify_all()
        return [request.stream for request in requests]

    @property
    def stats(self) -> EngineStats:
        """Current figures."""
        totals, batches = self._totals, (self._batch, *self._readings)
        return EngineStats(
            running=len(set(self._running.copy().values())),
            waiting=len(self._waiting),
            rows=sum(batch.copies for batch in batches),
            cached_tokens=sum(batch.cached for batch in batches),
            tokens=totals.tokens,
            prompt_tokens=totals.prompt_tokens,
            reused_tokens=totals.reused_tokens,
            tokens_per_second=totals.tokens_per_second,
            first_tokens=totals.first_tokens,
            first_token_seconds=totals.first_token_seconds,
            ended=dict(totals.ended),
        )

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _require_room(self, wanted: Sequence[int]) -> None:
        """Refuse jobs of ``wanted`` rows each, unless those that have no free row find room in the queue together."""
        if self._state != "running":
            new = self._state == "new"
            raise Unavailable(
                self._failure or ("start the engine first" if new else "the engine is stopping")
            )
        most = self.limits.max_waiting
        if _queued(self.limits.max_rows, wanted) > most:
            raise Unsupported(
                f"{len(wanted)} answers at once are more than this server holds; ask for fewer in one request"
            )
        free = self.limits.max_rows - sum(request.copies for request in set(self._running.copy().values()))
        waiting = [request.copies for request in self._waiting.copy()]
        if _queued(free, [*waiting, *wanted]) > most:
            rounds = max(1.0, len(waiting) / self.limits.max_rows)
            raise Overloaded(
                f"{len(waiting)} requests are waiting already; try again later",
                max(1.0, round(rounds * self._totals.service_seconds, 1)),
            )

    # Called from the engine's thread

    def _work(self) -> None:
        failure, message = "the engine was stopped; create a new one", ""
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
        self._batch, self._readings = self._empty(), []
        self._kept.clear()

    def _await_work(self) -> bool:
        """Wait for work; return whether to go on."""
        with self._changed:
            while not self._running and not self._waiting and self._state == "running":
                self._changed.wait()
            return self._state == "running" or (
                self._state == "draining" and bool(self._running or self._waiting)
            )

    def _iterate(self) -> None:
        """Remove and add jobs, then sample one token for each running row."""
        began, before = time.monotonic(), self._totals.tokens
        self._drop_over()
        admitted = self._admitted()
        if admitted.rows:
            self._readings.append(admitted)
        if self._readings:
            self._read(self._next_reading())
        if self._batch.rows and self._attempt(self._batch.step, self._batch):
            self._deliver(self._batch)
        self._totals.recent.append((time.monotonic() - began, self._totals.tokens - before))

    def _drop_over(self) -> None:
        """End the jobs that were cancelled or have timed out."""
        now = time.monotonic()
        with self._changed:
            waiting = [request for request in self._waiting if request.over(now)]
            for request in waiting:
                self._waiting.remove(request)
        running = [request for request in dict.fromkeys(self._running.values()) if request.over(now)]
        for request in (*waiting, *running):
            self._end(request, "cancelled" if request.stream.cancelled else "timeout")
        if running:
            for batch in (self._batch, *self._readings):
                self._leave(batch)
            self._readings = [batch for batch in self._readings if batch.rows]

    def _leave(self, batch: Batch) -> None:
        """Remove the rows that are finished, or whose jobs have ended."""
        gone = [row for row in batch.rows if self._running[row].ended or row.finished(self.lm.stops)]
        for row in gone:
            request = self._running.pop(row)
            # Of a mixture all copies are kept or none, as none goes on without the others.
            positions = sum(len(row.read_by(kind)) + len(row.tokens) for kind in row.kinds)
            whole = not batch.unread and len(request.rows) == 1 and math.isfinite(row.logp)
            if whole and positions <= self._kept.most:
                self._keep(batch, row, request.job.client)
        batch.leave(gone)

    def _keep(self, batch: Batch, row: Slot, client: str) -> None:
        """Keep what was read of a row; where memory is short, nothing is kept any longer, and no answer is lost."""
        try:
            for kind, tokens, states in batch.texts(row):
                self._kept.keep(Reader.of(client, row.gates_of(kind)), tokens, states)
        except Exception:
            logger.exception("a text could not be kept; its next turn is read anew")
            self._kept.clear()

    def _admitted(self) -> Batch:
        """Return a batch of as many waiting jobs as there is room for and as can be read together in one go.

        Of the waiting jobs the next is the oldest of the client that has the fewest rows. Those whose prompts go on from a text
        that is kept are read together, and apart from the others.
        """
        used = sum(batch.copies for batch in (self._batch, *self._readings))
        copies, unread = 0, 0
        longest = max((request.length for request in self._running.values()), default=0)
        taken: list[Request] = []
        known: list[tuple[RowStates, int]] = []
        with self._changed:
            held = Counter[str]()
            for request in set(self._running.values()):
                held[request.job.client] += request.copies
            while self._waiting:
                request = min(self._waiting, key=lambda waiting: held[waiting.job.client])
                copies += request.copies
                longest = max(longest, request.length)
                total = used + copies
                if total > self.limits.max_rows or total * longest > self.limits.max_cached_tokens:
                    break
                found, left = self._known(request)
                unread = max(unread, left)
                if taken and (bool(found) != bool(known) or copies * unread > self.limits.prefill_tokens):
                    break
                known += found
                self._waiting.remove(request)
                taken.append(request)
                held[request.job.client] += request.copies
            self._running.update((row, request) for request in taken for row in request.rows)
        now = time.monotonic()
        batch = self._begun([row for request in taken for row in request.rows], known)
        for request in taken:
            request.begun = now
            request.reused = max(0, request.stream.prompt_tokens - batch.unread)
            self._totals.prompt_tokens += request.stream.prompt_tokens
            self._totals.reused_tokens += request.reused
        return batch

    def _begun(self, rows: Sequence[Slot], known: Sequence[tuple[RowStates, int]]) -> Batch:
        """Return a batch of rows that goes on from what is known of them; where memory is short, their prompts are read anew."""
        batch = Batch(self.lm, self._steering, rows)
        try:
            if known:
                batch.go_on_from(known)
            return batch
        except Exception:
            logger.exception("kept texts could not be taken over; the prompts are read anew")
        # Behind the handler, which holds what the failed attempt had made.
        self._kept.clear()
        return Batch(self.lm, self._steering, rows)

    def _known(self, request: Request) -> tuple[list[tuple[RowStates, int]], int]:
        """Return what is known of the prompts of a job's copies, and how many tokens of the longest are left to read.

        It is for each copy the states of the kept text that its prompt goes on from, and how many positions of them. There are
        none where going on would not save half of what is read anew, each prompt once for all copies with the same gates.
        """
        client = request.job.client
        copies = [
            (Reader.of(client, row.gates_of(kind)), tuple(row.read_by(kind)))
            for row in request.rows
            for kind in row.kinds
        ]
        texts = {copy: self._kept.find(*copy) for copy in dict.fromkeys(copies)}
        found = [text for copy in copies if (text := texts[copy]) is not None]
        if len(found) == len(copies):
            left = max(len(prompt) - common for (_, prompt), (_, common) in zip(copies, found, strict=True))
            if 2 * left * len(copies) <= sum(len(prompt) for _, prompt in texts):
                return [(text.states, common) for text, common in found], left
        return [], max(len(prompt) for _, prompt in copies)

    def _next_reading(self) -> Batch:
        """Return the batch whose prompts are read on: in turn the one that is nearest to its end, and the oldest.

        So a short prompt does not wait for a long one, and a long one gets at least every other turn.
        """
        self._turn += 1
        if self._turn % 2:
            return min(self._readings, key=lambda batch: batch.unread * batch.copies)
        return self._readings[0]

    def _read(self, batch: Batch) -> None:
        """Read the next part of a batch's prompts; after the last part its rows join those that are decoded."""
        columns = max(1, self.limits.prefill_tokens // batch.copies)
        if not self._attempt(lambda: batch.read(columns), batch) or batch.unread:
            return
        self._deliver(batch)
        if batch.rows:
            self._attempt(lambda: self._batch.join(batch), self._batch, batch)
        if batch in self._readings:
            self._readings.remove(batch)

    def _attempt(self, work: Callable[[], object], *batches: Batch) -> bool:
        """Run one step of work on batches; if it fails, their jobs end and the engine continues without them."""
        try:
            work()
        except Exception as error:
            logger.exception("the model failed")
            self._kept.clear()
            for row in [row for batch in batches for row in batch.rows]:
                self._end(self._running.pop(row), "error", f"the model failed: {error}")
            self._readings = [batch for batch in self._readings if batch not in batches]
            if self._batch in batches:
                self._batch = self._empty()
            return False
        return True

    def _empty(self) -> Batch:
        return Batch(self.lm, self._steering)

    def _deliver(self, batch: Batch) -> None:
        """Send the newest tokens to their streams, and remove finished rows."""
        self._totals.tokens += len(batch.rows)
        for request in dict.fromkeys(self._running[row] for row in batch.rows):
            try:
                self._send(request)
            except Exception as error:
                logger.exception("an answer failed")
                self._end(request, "error", f"the answer failed: {error}")
        self._leave(batch)

    def _send(self, request: Request) -> None:
        """Send the text that the newest token of a job completes, and end the job if it is finished."""
        if request.first_token is None:
            request.first_token = time.monotonic() - request.submitted
            self._totals.count_first_token(request.first_token)
        for event in request.advance(self.lm.stops):
            if isinstance(event, Piece):
                self._put(request, event)
            else:
                self._end(request, event)

    def _end(self, request: Request, reason: Reason, message: str = "") -> None:
        if request.ended:
            return
        request.ended = True
        seconds = None if request.begun is None else time.monotonic() - request.begun
        self._totals.count_end(reason, seconds)
        prompt_tokens = request.stream.prompt_tokens
        told = End(
            reason, prompt_tokens, request.decoded, request.first_token, message, cached_tokens=request.reused
        )
        self._put(request, told)

    def _put(self, request: Request, event: Event) -> None:
        try:
            request.stream.put(event)
        except Exception:
            logger.exception("the receiver of an answer failed; the answer is cancelled")
            request.stream.cancelled = True


def _queued(free: int, wanted: Sequence[int]) -> int:
    """Return how many jobs of ``wanted`` rows each, in their order, do not find room on ``free`` rows."""
    for number, copies in enumerate(wanted):
        free -= copies
        if free < 0:
            return len(wanted) - number
    return 0
