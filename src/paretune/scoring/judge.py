"""The scorer that asks a language model to judge by a rubric: one grade for a response, or a verdict on a pair in both orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le

from paretune.core.bounds import Count, Natural, NotNegative, Positive, Seed, check_bounds
from paretune.core.errors import ConfigError
from paretune.core.files import fingerprint
from paretune.core.sampling import Sampling
from paretune.data.rows import Prompt
from paretune.generation.endpoint import Endpoint
from paretune.scoring.endpoint_scorer import AGAIN, Unscored
from paretune.scoring.function_scorer import (
    Comparing,
    FunctionScorer,
    UnscoredError,
    check_choices,
    from_function,
    sign_of,
)
from paretune.scoring.judge_model import Held, JudgeModel, local_judge, remote_judge
from paretune.scoring.ranking import Sort
from paretune.scoring.rubric import Rubric, read_rubric
from paretune.scoring.usage import Usage, prices_of

MORE = (
    "look at the rubric, raise tries, which asks for more answers to these alone, or set unscored: leave-out"
)
"""What helps where no answer of a judge can be read."""


@dataclass(frozen=True)
class Judge:
    """Score with a language model that judges by a rubric (LLM-as-a-judge, arXiv 2306.05685), here or behind a server.

    Its answers are kept by their content in the cache folder (``$PARETUNE_CACHE``), so that nothing is asked, or paid for, twice.
    An answer that states no grade of the scale is asked for again; if none can be read, the response has no score.

    Attributes:
        objective: Name of the objective.
        rubric: Markdown or YAML file that says what to look for, see :mod:`paretune.scoring.rubric`.
        model: Model that judges: with ``url`` its name at the server, else an embedded name, a hub name, a folder or a GGUF file.
        url: Address of a server with OpenAI's API, with its version, such as ``https://api.openai.com/v1``; empty judges here.
        pairs: Largest number of pairs of each prompt's training responses that are compared, each in both orders; the labels are
            trained on in place of scores. 0 compares none and scores all. Held-out answers are always scored.
        sort: ``greedy`` or ``beam`` ranks each prompt's training responses by PairS (arXiv 2403.16950), which chooses the pairs
            that are compared; the labels are those of the ranking. ``none`` ranks none.
        gap, width: Settings of the sort, see :class:`paretune.scoring.ranking.Sort`.
        verdicts: How a comparison is answered: ``written``, with reasons and a verdict of A, B or tie, or by the chances of the
            ``letter`` A and B as the first token of the answer, as PairS does: one token, and a probability in place of a verdict.
            A server must return ``logprobs``.
        direction: ``higher`` where a high grade is good, ``lower`` where it is bad.
        max_new_tokens: Length limit of an answer of the judge, its reasons included.
        temperature: Temperature of the judge; 0 is greedy. Where an answer at 0 cannot be read, the next try is at 0.7.
        tries: Largest number of answers to one question until one can be read.
        seed: Seed of the first.
        body: More keys of a request, such as ``{reasoning_effort: low}``; a key that is null is not sent.
        prices: Price of a million tokens, ``{input: 0.15, output: 0.6, currency: USD}``, by which cost is shown.
        concurrency: Largest number of simultaneous requests.
        retries: Largest number of further tries of a request that failed for a reason that may pass.
        timeout: Seconds until a request times out.
        key: Environment variable that holds the API key.
        dtype: Number format of a judge here.
        device: Torch device of a judge here.
        quantization: How a judge here is held: ``auto``, ``none``, ``nf4`` or ``int8``.
        batch_size: Questions that a judge here answers together.
        across_prompts: Whether its grades can be compared across prompts.
        unscored: What becomes of a response without a score, once all others are scored: ``stop`` ends the run with a message that
            counts them, ``leave-out`` leaves it out of training data and its prompt out of the measurement, which is counted too.

    Raises:
        ConfigError: Settings that cannot be.
    """

    objective: str
    rubric: str
    model: str
    url: str = ""
    pairs: Natural = 0
    sort: Literal["none", "greedy", "beam"] = "none"
    gap: NotNegative = 0.1
    width: Count = 100
    verdicts: Literal["written", "letter"] = "written"
    direction: Literal["higher", "lower"] = "higher"
    max_new_tokens: Count = 512
    temperature: Annotated[float, Ge(0), Le(100)] = 0.0
    tries: Count = 3
    seed: Seed = 0
    body: dict[str, Any] | None = None
    prices: dict[str, Any] | None = None
    concurrency: Count = 16
    retries: Natural = 6
    timeout: Positive = 300.0
    key: str = "PARETUNE_JUDGE_KEY"
    dtype: str = "auto"
    device: str | None = None
    quantization: Literal["auto", "none", "nf4", "int8"] = "auto"
    batch_size: Count = 16
    across_prompts: bool = True
    unscored: Unscored = "stop"

    def __post_init__(self) -> None:
        check_choices(self)
        check_bounds(self)
        if not self.model:
            raise ConfigError("model: is empty; expected the name of the model that judges")
        if self.body is not None and not isinstance(self.body, dict):
            raise ConfigError(
                f"body: {self.body!r:.60}: expected keys of a request, such as {{reasoning_effort: low}}"
            )
        if self.body and not self.url:
            raise ConfigError("body: belongs to a judge behind a server; give url, or leave it out")
        if self.pairs and self.sort != "none":
            raise ConfigError(
                f"pairs: {self.pairs} with sort: {self.sort}: the sort chooses the pairs that are compared; leave one of them out"
            )
        prices_of(self.prices)
        _ = self._server, self._sort

    def scorer(self) -> FunctionScorer:
        """Return the scorer, which asks nothing before it is called.

        Raises:
            ConfigError: The rubric cannot be read.
            ModelError: There is no such model here.
        """
        rubric, answering, usage = read_rubric(self.rubric, self.objective), self._model(), Usage()
        comparing_by = self._model(letter=True) if self.verdicts == "letter" else answering
        reasons: list[str] = []
        sign, objective = sign_of(self.direction), self.objective

        def function(
            prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
        ) -> np.ndarray:
            rows = list(zip(prompts, responses, truncated, strict=True))
            return sign * grades(answering, rubric, rows, usage, objective, sign)

        def compare(
            prompts: Sequence[Prompt],
            pairs: Sequence[tuple[str, str]],
            truncated: Sequence[tuple[bool, bool]],
        ) -> list[float]:
            rows = list(zip(prompts, pairs, truncated, strict=True))
            found, why = preferences(comparing_by, rubric, rows, usage, objective)
            reasons[:] = why or reasons
            return [sign * preference for preference in found]

        decides = [
            answering.identity,
            rubric.fingerprint,
            answering.sampling.identity(),
            self.tries,
            self.seed,
            self.direction,
        ]
        made = from_function(objective, fingerprint(["judge", *decides]), function, self.across_prompts)
        sort, letter = self._sort, ["letter"] if self.verdicts == "letter" else []
        comparing = Comparing(
            compare,
            self.pairs,
            fingerprint(["pairs", *decides, *letter, *([vars(sort)] if sort else [])]),
            sort,
            lambda: reasons[0] if reasons else "",
        )
        return replace(
            made,
            judge=f"{answering.name}{f' at {self.url}' if self.url else ''} by {rubric.name}",
            usage=usage,
            prices=prices_of(self.prices),
            comparing=comparing if self.pairs or sort else None,
            leaves_out=self.unscored == "leave-out",
            release=answering.free,
        )

    def _model(self, letter: bool = False) -> JudgeModel:
        """Return whoever answers the questions: in words, or by the chance of a ``letter``, which is the same at every try."""
        sampling = Sampling(self.max_new_tokens, float(self.temperature), 1.0, self.batch_size)
        tries = self.tries
        if letter:
            sampling, tries = Sampling(1, 0.0, 1.0, self.batch_size), 1
        server = self._server
        if server is None:
            how = Held(self.dtype, self.device, self.quantization)
            return local_judge(self.model, how, sampling, tries, self.seed, letter)
        return remote_judge(server, self.body or {}, sampling, tries, self.seed, letter)

    @property
    def _sort(self) -> Sort | None:
        return None if self.sort == "none" else Sort(self.sort, self.gap, self.width)

    @property
    def _server(self) -> Endpoint | None:
        if not self.url:
            return None
        return Endpoint(self.url, self.model, self.concurrency, self.retries, self.timeout, self.key)


def grades(
    answering: JudgeModel,
    rubric: Rubric,
    rows: Sequence[tuple[Prompt, str, bool]],
    usage: Usage,
    objective: str,
    sign: int = 1,
) -> np.ndarray:
    """Return the grades ``[n]`` of n responses (prompt, response, whether it was cut), on the scale of the rubric.

    Raises:
        UnscoredError: Responses without a grade; it has the grades of the others, times ``sign``.
        EndpointError: No response was graded, as the server cannot be used.
    """
    questions = [rubric.rating(*row) for row in rows]
    values, reasons, failure = answering.read(questions, rubric.grade, usage, f"judging {objective}")
    if failure is not None and not values:
        raise failure
    found = np.full(len(questions), np.nan)
    for row, grade in values.items():
        found[row] = grade
    if reasons:
        cure = AGAIN if failure is not None else MORE
        raise UnscoredError(sign * found, reasons, cure, final=failure is not None)
    return found


def preferences(
    answering: JudgeModel,
    rubric: Rubric,
    rows: Sequence[tuple[Prompt, tuple[str, str], tuple[bool, bool]]],
    usage: Usage,
    objective: str,
) -> tuple[list[float], list[str]]:
    """Return the preference for each pair: the mean of the verdicts in both orders, 1 for the first response, -1 for the second.

    A judge that prefers whatever comes first has no preference, which is a tie. NaN where a verdict cannot be read in either order;
    why not is returned beside.

    Raises:
        EndpointError: The server cannot be used; verdicts so far are kept.
    """
    questions = []
    for prompt, (first, second), (cut, other) in rows:
        questions.append(rubric.comparison(prompt, (first, second), (cut, other), answering.letter))
        questions.append(rubric.comparison(prompt, (second, first), (other, cut), answering.letter))
    read: Callable[[str], float] = rubric.chance if answering.letter else rubric.verdict
    values, reasons, failure = answering.read(questions, read, usage, f"comparing for {objective}")
    if failure is not None:
        raise failure
    verdicts = [(values.get(2 * n), values.get(2 * n + 1)) for n in range(len(rows))]
    known = [(there, back) for there, back in verdicts if there is not None and back is not None]
    turned = sum(bool(np.sign(there) != -np.sign(back)) for there, back in known)
    usage.add(compared=len(known), turned=turned)
    found = [np.nan if there is None or back is None else (there - back) / 2 for there, back in verdicts]
    return found, [reasons[number] for number in sorted(reasons)]
