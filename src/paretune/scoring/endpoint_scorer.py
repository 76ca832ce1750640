"""The scorer that asks a server: a reward model behind vLLM, a reranker, or any route by a template and a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from paretune.core.bounds import Count, Natural, Positive, check_bounds
from paretune.core.errors import ConfigError
from paretune.core.files import fingerprint
from paretune.data.rows import Prompt
from paretune.generation.endpoint import Endpoint
from paretune.scoring.function_scorer import (
    FunctionScorer,
    UnscoredError,
    check_choices,
    from_function,
    sign_of,
)
from paretune.scoring.usage import Usage

if TYPE_CHECKING:
    from paretune.generation.http_client import Client
    from paretune.scoring.endpoint_forms import Form

Unscored = Literal["stop", "leave-out"]
"""What becomes of a response without a score."""
AGAIN = "the same command asks for them again; set unscored: leave-out to go on without them"
"""What helps where a server gave no score."""


@dataclass(frozen=True)
class ScoringServer:
    """Score with a server: a reward model behind vLLM, a reranker, or any route.

    A text that the server refuses, or whose answer cannot be read, has no score: it is counted and named, and never a number.

    Attributes:
        objective: Name of the objective.
        url: Address of the server, such as ``http://127.0.0.1:8000``; for ``api: path`` the whole address of the route.
        api: Form of request and answer. ``classify``: a logit of a sequence-classification model (vLLM). ``score``: a
            cross-encoder on prompt and response (vLLM, ``text_1`` and ``text_2``). ``rerank``: the responses to a prompt together
            (vLLM, Jina, Cohere). ``pooling``: a reward head (vLLM; of one value a token, the last). ``path``: ``request`` and
            ``answer``.
        model: Name of the model at the server; by default none is sent.
        index: Number of the logit, from 0 (``classify``, ``pooling``).
        direction: ``higher`` or ``lower`` is better.
        activation: Whether the server squeezes the logit by the model's activation, such as a sigmoid. The logit itself tells good
            answers apart where all are close to 1.
        send: ``messages`` lets the server write the conversation by its chat template, one in a request; ``text`` sends prompt and
            response as one text, several in a request.
        request: For ``path``: body of a request, in which ``{prompt}``, ``{response}``, ``{messages}`` and ``{text}`` are those of
            a row, or ``{rows.prompt}`` and so on the lists of several rows.
        answer: For ``path``: JMESPath of the score in the answer, such as ``data[0].score``; of several rows, of the list of
            scores, such as ``results[*].score``.
        batch_size: Largest number of rows in a request.
        concurrency: Largest number of simultaneous requests.
        retries: Largest number of further tries of a request that failed for a reason that may pass.
        timeout: Seconds until a request times out.
        key: Environment variable that holds the API key.
        across_prompts: Whether its scores can be compared across prompts.
        unscored: What becomes of a text without a score, once all others are scored: ``stop`` ends the run with a message that
            counts them, ``leave-out`` leaves it out of training data and its prompt out of the measurement, which is counted too.

    Raises:
        ConfigError: Settings that do not fit together; the packages of the ``serve`` extra are not installed.
    """

    objective: str
    url: str
    api: Literal["classify", "score", "rerank", "pooling", "path"] = "classify"
    model: str = ""
    index: Natural = 0
    direction: Literal["higher", "lower"] = "higher"
    activation: bool = False
    send: Literal["messages", "text"] = "messages"
    request: dict[str, Any] | None = None
    answer: str = ""
    batch_size: Count = 16
    concurrency: Count = 32
    retries: Natural = 6
    timeout: Positive = 120.0
    key: str = "PARETUNE_SCORER_KEY"
    across_prompts: bool = True
    unscored: Unscored = "stop"

    def __post_init__(self) -> None:
        check_choices(self)
        check_bounds(self)
        _ = self._form, self._server

    def scorer(self) -> FunctionScorer:
        """Return the scorer, which asks nothing before it is called.

        Raises:
            EndpointError: When called: the server cannot be reached or refuses the key.
            UnscoredError: When called: texts without a score; it has the scores of the others.
        """
        by_path = self.api == "path"
        usage, sign = Usage(), sign_of(self.direction)

        def function(
            prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
        ) -> np.ndarray:
            texts = list(zip(prompts, responses, strict=True))
            return self._rated(texts, usage, sign)

        what = (
            [self.request, self.answer] if by_path else [self.model, self.index, self.activation, self.send]
        )
        address = self.url if by_path or not self.model else ""
        identity = ["endpoint", address, self.api, self.direction, *what]
        made = from_function(self.objective, fingerprint(identity), function, self.across_prompts)
        shown = self.url if by_path else f"{self.model or 'the model'} at {self.url} (/{self.api})"
        return replace(made, judge=shown, usage=usage, leaves_out=self.unscored == "leave-out")

    @property
    def _server(self) -> Endpoint:
        base = self.url if self.api == "path" else self.url.rstrip("/").removesuffix("/v1")
        return Endpoint(base, self.model, self.concurrency, self.retries, self.timeout, self.key)

    @property
    def _form(self) -> Form:
        try:
            from paretune.scoring.endpoint_forms import form
        except ImportError as error:
            raise ConfigError(
                f"{error}; a scoring server needs more packages: pip install 'paretune[serve]'"
            ) from error
        return form(self.api, self.model, self.index, self.activation, self.send, self.request, self.answer)

    def _rated(self, rows: Sequence[tuple[Prompt, str]], usage: Usage, sign: int) -> np.ndarray:
        """Return the scores ``[n]`` of n rows.

        Raises:
            UnscoredError: Rows without a score; it has the scores of the others.
            EndpointError: No row was answered, as the server cannot be used.
        """
        from paretune.scoring.asking import ask_rows
        from paretune.scoring.endpoint_forms import Text

        server, form = self._server, self._form
        texts = [Text.of(*row) for row in rows]
        most = form.most or self.batch_size
        kinds: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            kinds.setdefault(text.prompt if form.by_prompt else "", []).append(row)
        groups = [row[i : i + most] for row in kinds.values() for i in range(0, len(row), most)]

        async def send(client: Client, chosen: Sequence[int]) -> list[float]:
            body = form.body([texts[row] for row in chosen])
            values: list[float] = await client.tries(
                "POST",
                form.path or server.url,
                body,
                lambda response: form.read(response.json(), len(chosen)),
            )
            return values

        title = f"asking for {self.objective}"
        asked = ask_rows(server, groups, len(texts), send, "a scoring server", title)
        usage.add(asked=len(asked.answers), refused=len(asked.refused), unread=len(asked.unread))
        if asked.failure is not None and not asked.answers:
            raise asked.failure
        scores = np.full(len(texts), np.nan)
        for row, value in asked.answers.items():
            scores[row] = sign * value
        reasons = {row: str(asked.failure) for row in range(len(texts)) if np.isnan(scores[row])}
        reasons |= asked.failed
        if reasons:
            raise UnscoredError(scores, reasons, AGAIN, final=asked.failure is not None)
        return scores
