"""A server with OpenAI's API that samples responses: vLLM, SGLang, or ``paretune serve``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from paretune.core.bounds import Count, Natural, Positive, check_bounds
from paretune.core.errors import ConfigError
from paretune.core.files import fingerprint
from paretune.data.rows import Prompt


@dataclass(frozen=True)
class Endpoint:
    """A server, and how persistently it is used.

    Attributes:
        url: URL with the version, such as ``http://127.0.0.1:8000/v1``.
        model: Model that samples the responses that a run needs before it trains; by default the only one that is offered.
        concurrency: Largest number of simultaneous requests.
        retries: Largest number of further tries of a request that failed for a reason that may pass: statuses 408, 409, 425,
            429 and from 500 on, no connection, a broken one, a time-out, an answer that cannot be read. Waits double from
            half a second to half a minute, less up to half of it at random, or last as long as the server asks (at most a
            minute).
        timeout: Seconds until a request times out.
        key: Environment variable that holds the API key.
        policies: Name of a run's policy -> source of its held-out answers: the ``manifest.json`` of its LoRAs, which the
            server has loaded under their names, or ``NAME@`` for a ``paretune serve``, which receives the preference.
        stages: Methods of the run whose answers the server samples, instead of this machine: RiC's online stage and ParetoHqD's
            stage 2 from LoRAs that it loads while it runs, SIPO's reviews from ``model`` (see
            :mod:`paretune.training.remote_stages`), and the responses that MORLHF, GDPO and rewarded soups train on, from a LoRA of
            the parameters of the moment (see :mod:`paretune.training.rl.served`).
        load_every: Rollouts of such training that are sampled from one load of the parameters; all but the first are sampled under
            older ones, for which their weights in the gradient correct.
        ratio_cap: Largest such weight: how much more likely a response may count as than it was where it was sampled.
        chat_template: Arguments of the server's chat template, sent as ``chat_template_kwargs``; by default those of the run.
    """

    url: str
    model: str = ""
    concurrency: Count = 32
    retries: Natural = 6
    timeout: Positive = 300.0
    key: str = "PARETUNE_ENDPOINT_KEY"
    policies: Mapping[str, str] = field(default_factory=dict)
    stages: tuple[str, ...] = ()
    load_every: Count = 1
    ratio_cap: Positive = 2.0
    chat_template: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            known = False
        if not known:
            raise ConfigError(
                f"the endpoint {self.url!r} is no address; expected for example http://127.0.0.1:8000/v1"
            )
        check_bounds(self)


LORA_PREFIX = "paretune-"
"""Start of the name of every LoRA that a running server is asked to load."""


@dataclass(frozen=True)
class LoRA:
    """A LoRA that a server loads for a batch of requests and unloads after it.

    Attributes:
        name: Name that starts with :data:`LORA_PREFIX` and identifies the weights; answers are kept under it.
        folder: Folder of PEFT's files, an absolute path under which the server sees it too.
        rank: Rank of its factors.
    """

    name: str
    folder: Path
    rank: int

    @property
    def served(self) -> str:
        """The name at the server; it depends on the folder too, so that a run in another folder cannot unload it."""
        return f"{self.name}-{fingerprint(str(self.folder))[:8]}"


@dataclass(frozen=True)
class Question:
    """One response to sample: the model ("" is the endpoint's), the prompt and the seed; ``source`` names its row in messages."""

    model: str
    prompt: Prompt
    seed: int
    source: str = ""


@dataclass(frozen=True)
class Answer:
    """A response; ``tokens`` is the server's count, None where it gives none.

    ``refused`` states why the server gave no response to this prompt; the text is then empty. Where they were asked for, ``ids``
    are its tokens, and ``logps`` their log-probabilities as the server sampled them, in nats; empty where it does not tell.
    ``read`` counts the tokens of the prompt.
    """

    text: str
    truncated: bool
    tokens: int | None
    refused: str = ""
    ids: tuple[int, ...] = ()
    logps: tuple[float, ...] = ()
    read: int | None = None
