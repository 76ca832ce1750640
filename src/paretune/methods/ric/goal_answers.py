"""What an adapter answers to goals in its prompt, drawn here or by a server, and what becomes of it (RiC's online stage)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from paretune.core.files import fingerprint
from paretune.core.sampling import Sampling
from paretune.data.rows import Prompt
from paretune.generation.endpoint import Endpoint
from paretune.generation.generate import Response, attached, generate
from paretune.generation.resumable import Drawn, draw_in_parts, part_size
from paretune.models.adapter import Adapter
from paretune.scoring.repetition import is_collapsed
from paretune.training.lab import Lab
from paretune.training.remote_stages import ask_stage


def drawn(
    lab: Lab,
    adapter: Adapter,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    who: str,
) -> list[tuple[str, str]]:
    """Sample one response a prompt; return texts and fates: ``empty``, ``cut`` by the limit, ``collapsed`` or ``kept``.

    Finished parts are kept on disk under ``who`` draws, so that a killed run goes on.
    """

    def plan(numbers: range) -> tuple[str, Callable[[], list[Drawn]]]:
        part = slice(numbers.start, numbers.stop)

        def draw() -> list[Drawn]:
            title = f"sampling at goals, from {numbers.start + 1} of {len(prompts)}"
            with attached(lab.lm, adapter) as steering:
                gates = adapter.gates().expand(len(numbers), -1)
                responses = generate(lab.lm, prompts[part], sampling, seeds[part], steering, gates, title)
            return [(response.text, fate(response)) for response in responses]

        return fingerprint(who, [list(prompt) for prompt in prompts[part]], list(seeds[part])), draw

    folder = lab.folder / "cache" / "samples"
    return [(text, what) for text, what in draw_in_parts(folder, len(prompts), part_size(sampling), plan)]


def drawn_by(
    endpoint: Endpoint,
    lab: Lab,
    adapter: Adapter,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    sampling: Sampling,
) -> list[tuple[str, str]]:
    """Do what :func:`drawn` does by a server; a response's tokens are those of its text, read anew."""
    answers = ask_stage(lab, endpoint, adapter, prompts, sampling, seeds, "sampling at goals")
    tokens = [tuple(lab.lm.encode_response(answer.text, answer.truncated)) for answer in answers]
    read = [
        Response(answer.text, ids, answer.truncated, math.nan)
        for answer, ids in zip(answers, tokens, strict=True)
    ]
    return [(response.text, fate(response)) for response in read]


def fate(response: Response) -> str:
    """Return what becomes of a sampled response, see :func:`drawn`."""
    if not response.text.strip():
        return "empty"
    return "cut" if response.truncated else "collapsed" if is_collapsed(response.tokens) else "kept"
