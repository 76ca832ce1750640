"""What servers that score text are asked, and where the scores stand in their answers.

Forms of vLLM (its docs/models/pooling_models and entrypoints/pooling/*/protocol.py), of Jina's and Cohere's rerankers, and of any
other server by a template of the request and a JMESPath of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jmespath
from jmespath.exceptions import JMESPathError

from paretune.core.errors import ConfigError
from paretune.data.rows import Prompt

Api = Literal["classify", "score", "rerank", "pooling", "path"]

PLACES = ("{messages}", "{prompt}", "{response}", "{text}")
"""What a template of a request for one row may hold; in one for many rows, ``{rows.prompt}`` and so on are lists."""
ALL = "{rows."

_PLACE = re.compile("|".join(map(re.escape, PLACES[1:])))


@dataclass(frozen=True)
class Text:
    """A prompt with the response that is scored.

    Attributes:
        messages: The conversation, response included.
        prompt: The text of the prompt: of one message itself, of several one below the other with their roles.
        response: The response.
    """

    messages: list[dict[str, str]]
    prompt: str
    response: str

    @classmethod
    def of(cls, prompt: Prompt, response: str) -> Text:
        """Write a row as servers read it."""
        messages = [{"role": m.role, "content": m.content} for m in prompt]
        plain = "\n".join(f"{m.role}: {m.content}" for m in prompt) if len(prompt) > 1 else prompt[0].content
        return cls([*messages, {"role": "assistant", "content": response}], plain, response)

    @property
    def text(self) -> str:
        """Prompt and response as one text."""
        return f"{self.prompt}\n\n{self.response}"

    def value(self, place: str) -> Any:
        """Return what stands at a place of a template."""
        return getattr(self, place)


@dataclass(frozen=True)
class Form:
    """A kind of request.

    Attributes:
        path: Route below the server's address; empty for the address itself.
        body: Function from rows to the body of one request.
        read: Function from an answer and the number of rows to one value for each row, in order.
        most: Largest number of rows in a request; 0 is the scorer's ``batch_size``.
        by_prompt: Whether the rows of a request must have one prompt.
    """

    path: str
    body: Callable[[Sequence[Text]], dict[str, Any]]
    read: Callable[[Any, int], list[float]]
    most: int = 0
    by_prompt: bool = False


def form(
    api: Api,
    model: str,
    index: int,
    activation: bool,
    send: Literal["messages", "text"],
    request: Mapping[str, Any] | None,
    answer: str,
) -> Form:
    """Return the form of an ``api`` under a scorer's settings; see :func:`paretune.scoring.endpoint_scorer.endpoint`.

    Raises:
        ConfigError: Settings that the form does not have, or lacks; a template without a place, a path that is none.
    """
    own = {"request": request is not None, "answer": bool(answer)}
    if api == "path":
        return _by_path(request, answer)
    for name, given in own.items():
        if given:
            raise ConfigError(f"{name}: belongs to api: path; api: {api} has a form of its own")
    named = {"model": model} if model else {}
    raw = {} if activation else {"use_activation": False}
    if api == "score":
        return Form(
            "score",
            lambda rows: {
                **named,
                "text_1": [row.prompt for row in rows],
                "text_2": [row.response for row in rows],
                **raw,
            },
            lambda content, count: _ordered(content["data"], count, lambda entry: entry["score"]),
        )
    if api == "rerank":
        return Form(
            "rerank",
            lambda rows: {
                **named,
                "query": rows[0].prompt,
                "documents": [row.response for row in rows],
                "top_n": len(rows),
            },
            lambda content, count: _ordered(
                content["results"], count, lambda entry: entry["relevance_score"]
            ),
            by_prompt=True,
        )
    at = {"classify": _probability, "pooling": _pooled}[api]

    def read(content: Any, count: int) -> list[float]:
        return _ordered(content["data"], count, lambda entry: at(entry, index))

    if send == "text":
        return Form(api, lambda rows: {**named, "input": [row.text for row in rows], **raw}, read)
    return Form(
        api,
        lambda rows: {
            **named,
            "messages": rows[0].messages,
            "add_generation_prompt": False,
            **raw,
        },
        read,
        most=1,
    )


def _probability(entry: Any, index: int) -> Any:
    """Return logit ``index`` of an entry of /classify: ``{"index", "label", "probs", "num_classes"}``."""
    return _at(entry["probs"], index)


def _pooled(entry: Any, index: int) -> Any:
    """Return value ``index`` of an entry of /pooling: ``{"index", "data"}``, of the last token where it has one list a token."""
    data = entry["data"]
    return _at(data[-1] if isinstance(data[-1], list) else data, index)


def _at(values: Any, index: int) -> Any:
    if index >= len(values):
        raise LookupError(f"it has {len(values)} values, and index is {index}")
    return values[index]


def _ordered(entries: Any, count: int, value: Callable[[Any], Any]) -> list[float]:
    """Return the values of entries in the order of their ``index``."""
    found = {entry["index"]: _number(value(entry)) for entry in entries}
    if sorted(found) != list(range(count)):
        raise ValueError(f"it has the rows {sorted(found)} of {count}")
    return [found[row] for row in range(count)]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < float("inf"):
        raise ValueError(f"{value!r:.60} is no finite number")
    return float(value)


# Any server


def _by_path(request: Mapping[str, Any] | None, answer: str) -> Form:
    """Return the form of a template and a path."""
    if not isinstance(request, Mapping) or not isinstance(answer, str) or not answer:
        raise ConfigError(
            "api: path needs request, the body with {prompt} and {response} (or {messages}, {text}), and answer, the JMESPath of "
            "the score, such as data[0].score"
        )
    try:
        found = jmespath.compile(answer)
    except JMESPathError as error:
        raise ConfigError(f"answer: {answer!r}: no JMESPath ({' '.join(str(error).split())})") from error
    held = set(_places(request))
    many = any(place.startswith(ALL) for place in held)
    if not held & (
        {"{response}", "{messages}", "{text}"} | {_all(p) for p in ("response", "messages", "text")}
    ):
        raise ConfigError(
            f"request: holds no response to score; write one of {', '.join(PLACES[:1] + PLACES[2:])} into it, or the lists "
            "{rows.response}, {rows.messages}, {rows.text} for many rows at once"
        )
    if many and any(not place.startswith(ALL) for place in held):
        raise ConfigError(
            "request: mixes places of one row and of many; write {rows.prompt} for the list of all prompts of a request"
        )

    def read(content: Any, count: int) -> list[float]:
        value = found.search(content)
        if value is None:
            raise LookupError(f"nothing stands at {answer}")
        values = value if many else [value]
        if not isinstance(values, list) or len(values) != count:
            raise ValueError(f"at {answer} stand {values!r:.60}, expected {count} numbers")
        return [_number(each) for each in values]

    return Form("", lambda rows: _filled(request, rows), read, most=0 if many else 1)


def _all(place: str) -> str:
    return f"{ALL}{place}}}"


def _places(part: Any) -> list[str]:
    """Return the places that a template holds."""
    if isinstance(part, Mapping):
        return [place for value in part.values() for place in _places(value)]
    if isinstance(part, list):
        return [place for value in part for place in _places(value)]
    known = [*PLACES, *(_all(place[1:-1]) for place in PLACES)]
    return [place for place in known if isinstance(part, str) and place in part]


def _filled(part: Any, rows: Sequence[Text]) -> Any:
    """Return a template with its places filled: a place alone by its value, one within a text by that of texts."""
    if isinstance(part, Mapping):
        return {key: _filled(value, rows) for key, value in part.items()}
    if isinstance(part, list):
        return [_filled(value, rows) for value in part]
    if not isinstance(part, str):
        return part
    for place in PLACES:
        name = place[1:-1]
        if part == place:
            return rows[0].value(name)
        if part == _all(name):
            return [row.value(name) for row in rows]
    # In one pass, so that a place within a user's text stays text.
    texts = {place: rows[0].value(place[1:-1]) for place in PLACES[1:]}
    return _PLACE.sub(lambda match: texts[match[0]], part)
