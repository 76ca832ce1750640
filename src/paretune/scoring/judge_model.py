"""Whoever answers a judge's questions: a language model here, or a server with OpenAI's API; each answer is kept by its content."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from paretune.core.errors import ConfigError, EndpointError
from paretune.core.files import cache_folder, fingerprint
from paretune.core.sampling import Sampling
from paretune.data.rows import Prompt
from paretune.generation.endpoint import Endpoint
from paretune.scoring.cache import AnswerCache
from paretune.scoring.rubric import LETTERS
from paretune.scoring.shared_model import shared_model
from paretune.scoring.usage import Usage

if TYPE_CHECKING:
    from paretune.models.language_model import LanguageModel

AGAIN = 0.7
"""Temperature of a further try where an answer at temperature 0 could not be read: it would be the same again."""

LOGPROBS = {"logprobs": True, "top_logprobs": 20}
"""Keys of a request for the log-probabilities of the likeliest tokens; 20 is the most that servers give."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Reply:
    """An answer of a judge.

    Attributes:
        text: What it says.
        truncated: Whether its length was cut.
        input_tokens, output_tokens: Tokens read and written; 0 where the server does not count them.
    """

    text: str
    truncated: bool
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass
class Replied:
    """What a judge said to some questions.

    Attributes:
        replies: Question -> its reply.
        refused: Question -> why the server gave none.
        failure: What ended the asking; None where all were asked.
    """

    replies: dict[int, Reply]
    refused: dict[int, str]
    failure: EndpointError | None = None


Ask = Callable[[Sequence[Prompt], Sampling, Sequence[int], Callable[[int, Reply], None], str], Replied]
"""Asks questions under a sampling with a seed each; hands on each reply as it comes, with its number."""


@dataclass(frozen=True)
class JudgeModel:
    """A model that judges.

    Attributes:
        name: Its name for people.
        identity: Identity of model and settings: equal identities give equal answers, up to chance.
        ask: Way of asking.
        sampling: Length, temperature and top-p of an answer.
        tries: Largest number of answers to a question until one can be read.
        seed: Seed of the first.
        free: Gives back the memory of a model here.
        letter: Whether a reply is the JSON of the chances of the letters A and B as the first token, and no text of the model.
    """

    name: str
    identity: str
    ask: Ask
    sampling: Sampling
    tries: int
    seed: int
    free: Callable[[], None]
    letter: bool = False

    def read(
        self,
        questions: Sequence[Prompt],
        value: Callable[[str], Value],
        usage: Usage,
        title: str,
    ) -> tuple[dict[int, Value], dict[int, str], EndpointError | None]:
        """Return the value of each question that has one, why others have none, and what ended the asking.

        Replies that are in the cache are not asked again. One that cannot be read is asked again with another seed.

        Args:
            questions: The questions.
            value: Reads a reply; raises ValueError where it holds no value.
            usage: Counts what is asked.
            title: Title of the progress bar.
        """
        cache = AnswerCache(cache_folder() / "judge.sqlite")
        values: dict[int, Value] = {}
        reasons: dict[int, str] = {}
        todo = list(range(len(questions)))
        for attempt in range(self.tries):
            sampling = self._sampling(attempt)
            seed = self.seed + attempt
            keys = {n: self._key(questions[n], sampling, seed) for n in todo}
            known = {key: _reply(text) for key, text in cache.get(sorted(set(keys.values()))).items()}
            first = {key: n for n, key in reversed(keys.items()) if key not in known}
            asked = sorted(first.values())
            replied = Replied({}, {})
            if asked:

                def keep(
                    number: int, reply: Reply, asked: list[int] = asked, keys: dict[int, str] = keys
                ) -> None:
                    cache.put({keys[asked[number]]: json.dumps(vars(reply), ensure_ascii=False)})

                seeds = [seed] * len(asked)
                replied = self.ask([questions[n] for n in asked], sampling, seeds, keep, title)
                usage.add(
                    asked=len(replied.replies),
                    refused=len(replied.refused),
                    input_tokens=sum(reply.input_tokens for reply in replied.replies.values()),
                    output_tokens=sum(reply.output_tokens for reply in replied.replies.values()),
                )
            usage.add(kept=len(known))
            new = {keys[asked[n]]: reply for n, reply in replied.replies.items()}
            refused = {keys[asked[n]]: reason for n, reason in replied.refused.items()}
            again = []
            for n in todo:
                key = keys[n]
                reply = known.get(key) or new.get(key)
                if reply is None:
                    reasons[n] = refused.get(key) or str(replied.failure)
                    continue
                try:
                    values[n] = value(reply.text)
                    reasons.pop(n, None)
                except ValueError as error:
                    cut = f", cut at {self.sampling.max_new_tokens} tokens" if reply.truncated else ""
                    reasons[n] = f"the answer of {self.name} cannot be read: {error}{cut}"
                    again.append(n)
            if replied.failure is not None:
                reasons |= {n: str(replied.failure) for n in todo if n not in values and n not in reasons}
                return values, reasons, replied.failure
            todo = again
            if not again:
                break
        usage.add(unread=len(todo))
        return values, reasons, None

    def _sampling(self, attempt: int) -> Sampling:
        first = self.sampling
        if attempt == 0 or first.temperature > 0:
            return first
        return Sampling(first.max_new_tokens, AGAIN, first.top_p, first.batch_size)

    def _key(self, question: Prompt, sampling: Sampling, seed: int) -> str:
        # At temperature 0 the seed changes nothing.
        drawn = seed if sampling.temperature > 0 else 0
        messages = [[message.role, message.content] for message in question]
        return fingerprint("judge", self.identity, messages, sampling.identity(), drawn)


def _reply(text: str) -> Reply:
    return Reply(**json.loads(text))


@dataclass(frozen=True)
class Held:
    """How a judge here is held: its number format, its device, and whether in fewer bits."""

    dtype: str
    device: str | None
    quantization: str


def local_judge(
    model: str, how: Held, sampling: Sampling, tries: int, seed: int, letter: bool = False
) -> JudgeModel:
    """Return a judge that is a language model in this process, loaded when it is first asked.

    With ``letter`` it replies with the chances of the letters A and B, see :class:`JudgeModel`.

    Raises:
        ModelError: There is no such model.
    """
    from paretune.models.loading import locate, origin_of

    weights = origin_of(locate(model)).weights

    def loading() -> LanguageModel:
        from paretune.models.language_model import load

        return load(model, how.dtype, how.device, quantization=how.quantization)

    fewer = [] if how.quantization == "auto" else [how.quantization]
    held = shared_model(fingerprint("language model", model, how.dtype, str(how.device), *fewer), loading)

    def ask(
        questions: Sequence[Prompt],
        sampling: Sampling,
        seeds: Sequence[int],
        keep: Callable[[int, Reply], None],
        title: str,
    ) -> Replied:
        from paretune.generation.generate import generate

        lm = held.get()
        replies = {}
        for start in range(0, len(questions), sampling.batch_size):
            part = questions[start : start + sampling.batch_size]
            prompts = [lm.encode_prompt(question) for question in part]
            if letter:
                made = [
                    Reply(text, False, len(p))
                    for p, text in zip(prompts, _chances(lm, prompts, title), strict=True)
                ]
            else:
                drawn = generate(lm, prompts, sampling, seeds[start : start + len(part)], description=title)
                made = [
                    Reply(response.text, response.truncated, len(prompt), len(response.tokens))
                    for prompt, response in zip(prompts, drawn, strict=True)
                ]
            for row, reply in enumerate(made, start):
                replies[row] = reply
                keep(row, reply)
        return Replied(replies, {})

    kind = ["letter"] if letter else []
    identity = fingerprint(weights, how.dtype, *fewer, *kind)
    return JudgeModel(Path(model).name, identity, ask, sampling, tries, seed, held.free, letter)


def _chances(lm: LanguageModel, prompts: Sequence[Sequence[int]], title: str) -> list[str]:
    """Return for each prompt the JSON of the chances of the letters A and B as the first token of an answer.

    A letter may be several tokens: with and without a space before it. Their chances are added.

    Raises:
        ModelError: A letter is no single token of the model.
    """
    from paretune.core.errors import ModelError
    from paretune.generation.generate import response_logps

    tokens = {
        name: sorted(
            {ids[0] for text in (name, f" {name}") if len(ids := lm.encode_response(text, True)) == 1}
        )
        for name in LETTERS
    }
    if not all(tokens.values()):
        raise ModelError(
            f"{lm.name}: the letters A and B are no single tokens of this model, so their chances cannot be read; let it write its "
            "verdict (verdicts: written)"
        )
    one_each = [[token] for name in LETTERS for token in tokens[name]]
    found = []
    for logps in response_logps(lm, [(prompt, one_each) for prompt in prompts], description=title):
        first, second = logps.double().exp().split([len(tokens[name]) for name in LETTERS])
        found.append(json.dumps({"A": float(first.sum()), "B": float(second.sum())}))
    return found


def remote_judge(
    endpoint: Endpoint,
    extra: Mapping[str, Any],
    sampling: Sampling,
    tries: int,
    seed: int,
    letter: bool = False,
) -> JudgeModel:
    """Return a judge that a server with OpenAI's API runs.

    Args:
        endpoint: The server, with the name of the model.
        extra: More keys of a request; one that is null takes a key away.
        sampling: Length, temperature and top-p of an answer.
        tries: Largest number of answers to a question.
        seed: Seed of the first.
        letter: Whether it replies with the chances of the letters A and B, see :class:`JudgeModel`.
    """

    def ask(
        questions: Sequence[Prompt],
        sampling: Sampling,
        seeds: Sequence[int],
        keep: Callable[[int, Reply], None],
        title: str,
    ) -> Replied:
        try:
            from paretune.scoring.judge_requests import ask_server
        except ImportError as error:
            raise ConfigError(
                f"{error}; a judge behind a server needs more packages: pip install 'paretune[serve]'"
            ) from error
        more = {**LOGPROBS, **extra} if letter else extra
        return ask_server(endpoint, more, questions, sampling, seeds, keep, title, letter)

    kind = ["letter"] if letter else []
    identity = fingerprint("served", endpoint.model, dict(extra), *kind)
    return JudgeModel(endpoint.model, identity, ask, sampling, tries, seed, lambda: None, letter)
