"""A job in the engine: its rows, and the text that their tokens make."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from paretune.core.errors import ModelError
from paretune.generation.batch import Slot
from paretune.models.call_reader import CallReader
from paretune.policies.mixed import kept_candidate
from paretune.serving.engine.detokenise import Characters, StoppableText
from paretune.serving.engine.stream import Stream
from paretune.serving.events import Job, Piece, Reason


@dataclass(eq=False)
class Request:
    """A job with its rows: one, or one per candidate that its policy samples.

    Attributes:
        job: What to generate.
        stream: Receiver of the events.
        rows: Rows in the batch.
        text: Text of the answer so far.
        characters: Decoder from tokens to whole characters.
        deadline: Value of ``time.monotonic`` at which the answer times out; None for no limit.
        reader: What reads calls of functions out of the text; None where it may have none.
        submitted: Value of ``time.monotonic`` at submission.
        begun: Value of ``time.monotonic`` when the prompt was first read; None while waiting.
        first_token: Seconds from submission to the first token; None before it.
        decoded: Number of tokens of the answer that were decoded.
        sent: Number of tokens that were sent in pieces.
        reused: Tokens of the prompt that were taken over from a text that was read before.
        ended: Whether the End was sent.
    """

    job: Job
    stream: Stream
    rows: list[Slot]
    text: StoppableText
    characters: Characters
    deadline: float | None
    reader: CallReader | None = None
    submitted: float = field(default_factory=time.monotonic)
    begun: float | None = None
    first_token: float | None = None
    decoded: int = 0
    sent: int = 0
    reused: int = 0
    ended: bool = False

    @property
    def copies(self) -> int:
        """Number of rows in a forward."""
        return sum(len(row.kinds) for row in self.rows)

    @property
    def length(self) -> int:
        """Largest number of positions that a row can take."""
        return self.stream.prompt_tokens + self.job.sampling.max_new_tokens

    def over(self, now: float) -> bool:
        """Return whether the answer was cancelled or has timed out."""
        return self.stream.cancelled or (self.deadline is not None and now >= self.deadline)

    def advance(self, stops: frozenset[int]) -> Iterator[Piece | Reason]:
        """Yield the pieces that the newest token completes, then the reason if the answer has ended.

        Args:
            stops: Token ids that end a turn.

        Raises:
            ModelError: A log-probability is not finite.
        """
        if not all(math.isfinite(row.logp) for row in self.rows):
            raise ModelError("the model returned numbers that are not finite")
        row = self._answering(stops)
        if row is None:
            return
        for token in row.tokens[self.decoded :]:
            self.decoded += 1
            last = self.decoded == len(row.tokens) and row.finished(stops)
            text = self.text.push(self.characters.push(token))
            if last:
                text += self.text.push(self.characters.finish())
                text += self.text.finish()
            over = last or self.text.stopped
            calls = tuple[Mapping[str, Any], ...]()
            if self.reader is not None:
                text, calls = self._read(self.reader, text, over)
                over = over or (bool(self.reader.found) and not self._may_call_again)
            if text or calls or over:
                part = slice(self.sent, self.decoded)
                self.sent = self.decoded
                conflicts = tuple(-log_z for log_z in row.normalisers[part])
                yield Piece(text, tuple(row.tokens[part]), conflicts, self._logprobs(row, part, stops), calls)
            if over:
                yield self._reason(last and token not in stops)
                return

    @property
    def _may_call_again(self) -> bool:
        return self.job.tools is not None and self.job.tools.parallel

    def _reason(self, cut: bool) -> Reason:
        """Return why an answer has ended whose tokens are cut, or end by themselves."""
        if cut and not self.text.stopped:
            return "length"
        return "tool_calls" if self.reader is not None and self.reader.found else "stop"

    def _read(self, reader: CallReader, text: str, over: bool) -> tuple[str, tuple[Mapping[str, Any], ...]]:
        """Return what of a text is said, and the calls in it as entries of ``delta.tool_calls``; one where no more may follow."""
        before = reader.found
        text, calls = reader.push(text)
        if over:
            more, last = reader.finish()
            text, calls = text + more, [*calls, *last]
        if not self._may_call_again:
            calls = calls[: max(0, 1 - before)]
        return text, tuple(
            {
                "index": before + number,
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(calls)
        )

    def _logprobs(self, row: Slot, part: slice, stops: frozenset[int]) -> tuple[Mapping[str, Any], ...]:
        """Return the entries of ``logprobs.content`` of some tokens; none where the job does not ask for them."""
        told = zip(row.tokens[part], row.likely[part], strict=False)
        return tuple(
            {**self._token(token, logp), "top_logprobs": [self._token(*each) for each in likely]}
            for token, (logp, likely) in told
            if token not in stops
        )

    def _token(self, token: int, logp: float) -> dict[str, Any]:
        text = self.characters.alone(token)
        raw = None if "\ufffd" in text else list(text.encode())  # part of a character has no text of its own
        return {"token": text, "logprob": logp, "bytes": raw}

    def _answering(self, stops: frozenset[int]) -> Slot | None:
        """Return the row whose text is the answer; None while it is not known which candidate that is."""
        if len(self.rows) == 1:
            return self.rows[0]
        if not all(row.finished(stops) for row in self.rows):
            return None
        return self.rows[kept_candidate([row.normalisers for row in self.rows], self.job.seed)]
