"""What passes between the server and a backend: jobs, the events of their answers, and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from paretune.core.errors import ParetuneError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.core.tools import Tools
from paretune.data.rows import Prompt

Reason = Literal[
    "stop",
    "length",
    "content_filter",
    "tool_calls",
    "function_call",
    "other",
    "cancelled",
    "timeout",
    "error",
]
"""``stop``: end of turn or a stop string. ``length``: cut by the job's ``max_new_tokens``. ``tool_calls``: the answer calls
functions. ``content_filter`` and ``function_call`` come from upstream servers; ``other`` is a reason of theirs that OpenAI's API
does not have."""


class Overloaded(ParetuneError):  # noqa: N818 - the state of a backend, not a mistake
    """The queue is full; ``retry_after`` estimates the seconds until it is not."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PromptTooLong(ParetuneError):  # noqa: N818
    """The prompt exceeds the limit, or prompt and answer together exceed the model's positions."""


class Unavailable(ParetuneError):  # noqa: N818
    """The backend takes no jobs: it has not started, it is stopping, it has failed, or it cannot be reached."""


class UpstreamFailed(ParetuneError):  # noqa: N818
    """The upstream server gave no usable answer; another try would not help soon. ``timed_out``: it took too long."""

    def __init__(self, message: str, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class Unsupported(ParetuneError):  # noqa: N818
    """This backend cannot do what the job asks; ``field`` names what of it, where one is to blame."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Job:
    """One answer to generate.

    Attributes:
        policy: Name of a served policy.
        prompt: A conversation, or raw text to continue without the chat template.
        preference: Weights over the policy's objectives.
        sampling: Length, temperature and top-p; its batch size is not used.
        seed: Seed of the answer's random numbers.
        stop: Strings; the text ends before the first of them.
        client: Name of who asks; rows are shared out among the clients whose jobs wait.
        schema: JSON schema, as text, that the answer must fit; None for any text.
        logprobs: Number of likely tokens whose log-probabilities are told beside that of each token; None tells none.
        tools: Functions that the answer may call; None for none.
    """

    policy: str
    prompt: Prompt | str
    preference: Preference
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    stop: tuple[str, ...] = ()
    client: str = ""
    schema: str | None = None
    logprobs: int | None = None
    tools: Tools | None = None


def written(prompt: Prompt | str) -> str:
    """Return the text that people wrote in a prompt, to bound its length before it is tokenised."""
    if isinstance(prompt, str):
        return prompt
    calls = [call.arguments for message in prompt for call in message.calls]
    return "\n".join([*(message.content for message in prompt), *calls])


@dataclass(frozen=True)
class Piece:
    """The next part of an answer.

    Attributes:
        text: Whole characters; "" where the tokens have not completed one yet.
        tokens: Token ids since the last piece; none where an upstream server reports text alone.
        conflicts: For policies that mix token distributions, -log Z of each token in nats; 0 where the policies agree.
        logprobs: For a job that asks for them, an entry of OpenAI's ``logprobs.content`` for each token, the end of turn left out.
        calls: For a job with tools, entries of OpenAI's ``delta.tool_calls``.
    """

    text: str
    tokens: tuple[int, ...] = ()
    conflicts: tuple[float, ...] = ()
    logprobs: tuple[Mapping[str, Any], ...] = ()
    calls: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class End:
    """The last event of an answer.

    Attributes:
        reason: Why the answer ended.
        prompt_tokens: Tokens of the prompt as the model reads it.
        completion_tokens: Tokens of the answer, its end of turn included.
        first_token_seconds: Seconds from submission to the first token; None without a token, or upstream.
        message: What went wrong, where the reason is ``error``.
        cached_tokens: Tokens of the prompt that were not read again, as an answer to what they begin with was given before.
        told: The upstream server's own word for the reason, where it is ``other``.
    """

    reason: Reason
    prompt_tokens: int
    completion_tokens: int
    first_token_seconds: float | None = None
    message: str = ""
    told: str = ""
    cached_tokens: int = 0

    @property
    def finish_reason(self) -> str:
        """The reason as the client is told it."""
        return self.told or self.reason


Event: TypeAlias = Piece | End
"""An answer is any number of pieces, then one End."""


class Cancellable(Protocol):
    """An answer that is being generated."""

    def cancel(self) -> None:
        """Give the answer up; its End still comes."""
