"""The scorer that asks a language model to judge by a rubric: one grade for a response, or a verdict on a pair in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from paretune.core.errors import ConfigError
from paretune.core.files import fingerprint
from paretune.core.sampling import Sampling
from paretune.data.rows import Prompt
from paretune.scoring.endpoint_scorer import AGAIN, served
from paretune.scoring.function_scorer import (
    Comparing,
    FunctionScorer,
    UnscoredError,
    choice,
    from_function,
    sign_of,
)
from paretune.scoring.judge_model import JudgeModel, local_judge, remote_judge
from paretune.scoring.rubric import Rubric, read_rubric
from paretune.scoring.usage import Usage, prices_of

MORE = (
    "look at the rubric, raise tries, which asks for more answers to these alone, or set unscored: leave-out"
)
"""What helps where no answer of a judge can be read."""


def judge(
    objective: str,
    rubric: str,
    model: str,
    url: str = "",
    pairs: int = 0,
    direction: str = "higher",
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    tries: int = 3,
    seed: int = 0,
    body: dict[str, Any] | None = None,
    prices: dict[str, Any] | None = None,
    concurrency: int = 16,
    retries: int = 6,
    timeout: float = 300.0,
    key: str = "PARETUNE_JUDGE_KEY",
    dtype: str = "auto",
    device: str | None = None,
    quantization: str = "auto",
    batch_size: int = 16,
    across_prompts: bool = True,
    unscored: str = "stop",
) -> FunctionScorer:
    """Score with a language model that judges by a rubric (LLM-as-a-judge, arXiv 2306.05685), here or behind a server.

    Its answers are kept by their content in the cache folder (``$PARETUNE_CACHE``), so that nothing is asked, or paid for, twice.
    An answer that states no grade of the scale is asked for again; if none can be read, the response has no score.

    Args:
        objective: Name of the objective.
        rubric: Markdown or YAML file that says what to look for, see :mod:`paretune.scoring.rubric`.
        model: Model that judges: with ``url`` its name at the server, else an embedded name, a hub name, a folder or a GGUF file.
        url: Address of a server with OpenAI's API, with its version, such as ``https://api.openai.com/v1``; empty judges here.
        pairs: Largest number of pairs of each prompt's training responses that are compared, each in both orders; the labels are
            trained on in place of scores. 0 compares none and scores all. Held-out answers are always scored.
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
        ConfigError: No rubric, or settings that cannot be.
        ModelError: There is no such model here.
    """
    sign = sign_of(direction)
    choice("unscored", unscored, ("stop", "leave-out"))
    for name, value, least in (("pairs", pairs, 0), ("tries", tries, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name}: {value!r}: expected a whole number of at least {least}")
    if not isinstance(across_prompts, bool):
        raise ConfigError(f"across_prompts: {across_prompts!r}: expected true or false")
    if not isinstance(model, str) or not model:
        raise ConfigError(f"model: {model!r}: expected the name of the model that judges")
    if body is not None and not isinstance(body, dict):
        raise ConfigError(
            f"body: {body!r:.60}: expected keys of a request, such as {{reasoning_effort: low}}"
        )
    if body and not url:
        raise ConfigError("body: belongs to a judge behind a server; give url, or leave it out")
    cost = prices_of(prices)
    sampling = _sampling(max_new_tokens, temperature, batch_size)
    criteria = read_rubric(rubric)
    if url:
        server = served(url, model, concurrency, retries, timeout, key)
        answering = remote_judge(server, body or {}, sampling, tries, seed)
    else:
        from paretune.models.quantised import check_quantization  # it loads torch

        check_quantization(quantization)
        answering = local_judge(model, dtype, device, quantization, sampling, tries, seed)
    usage = Usage()
    decides = [answering.identity, criteria.fingerprint, sampling.identity(), tries, seed]

    def function(
        prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        return sign * grades(answering, criteria, prompts, responses, truncated, usage, objective, sign)

    def compare(
        prompts: Sequence[Prompt],
        given: Sequence[tuple[str, str]],
        truncated: Sequence[tuple[bool, bool]],
    ) -> list[float]:
        return [
            sign * verdict
            for verdict in preferences(answering, criteria, prompts, given, truncated, usage, objective)
        ]

    scorer = from_function(objective, fingerprint(["judge", *decides, direction]), function, across_prompts)
    return replace(
        scorer,
        judge=f"{answering.name}{f' at {url}' if url else ''} by {criteria.name}",
        usage=usage,
        prices=cost,
        comparing=Comparing(compare, pairs, fingerprint(["pairs", *decides, direction])) if pairs else None,
        leaves_out=unscored == "leave-out",
        release=answering.free,
    )


def _sampling(max_new_tokens: int, temperature: float, batch_size: int) -> Sampling:
    values = {"max_new_tokens": max_new_tokens, "temperature": temperature, "batch_size": batch_size}
    for name, value in values.items():
        whole = name != "temperature"
        right = isinstance(value, int) if whole else isinstance(value, (int, float))
        if isinstance(value, bool) or not right:
            raise ConfigError(f"{name}: {value!r}: expected a {'whole ' if whole else ''}number")
    return Sampling(max_new_tokens, float(temperature), 1.0, batch_size)


def grades(
    answering: JudgeModel,
    rubric: Rubric,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    truncated: Sequence[bool],
    usage: Usage,
    objective: str,
    sign: int = 1,
) -> np.ndarray:
    """Return the grades ``[n]`` of n responses, on the scale of the rubric.

    Raises:
        UnscoredError: Responses without a grade; it has the grades of the others, times ``sign``.
        EndpointError: No response was graded, as the server cannot be used.
    """
    questions = [rubric.rating(*row) for row in zip(prompts, responses, truncated, strict=True)]
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
    prompts: Sequence[Prompt],
    pairs: Sequence[tuple[str, str]],
    truncated: Sequence[tuple[bool, bool]],
    usage: Usage,
    objective: str,
) -> list[float]:
    """Return the preference for each pair: the mean of the verdicts in both orders, 1 for the first response, -1 for the second.

    A judge that prefers whatever comes first has no preference, which is a tie. NaN where a verdict cannot be read in either order.

    Raises:
        EndpointError: The server cannot be used; verdicts so far are kept.
    """
    questions = []
    for prompt, (first, second), (cut, other) in zip(prompts, pairs, truncated, strict=True):
        questions.append(rubric.comparison(prompt, (first, second), (cut, other)))
        questions.append(rubric.comparison(prompt, (second, first), (other, cut)))
    values, _, failure = answering.read(questions, rubric.verdict, usage, f"comparing for {objective}")
    if failure is not None:
        raise failure
    verdicts = [(values.get(2 * n), values.get(2 * n + 1)) for n in range(len(pairs))]
    known = [(there, back) for there, back in verdicts if there is not None and back is not None]
    usage.add(compared=len(known), turned=sum(there != -back for there, back in known))
    return [np.nan if there is None or back is None else (there - back) / 2 for there, back in verdicts]
