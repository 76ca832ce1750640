"""The fit of a head of ``auto`` to votes or labels, kept only where it is shown to be better than a constant preference."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from paretune.choosing.auto import Labels, Lessons, Votes, fit_chosen, held_out
from paretune.core.errors import DataError
from paretune.core.folder_form import refuse_foreign
from paretune.data.rows import Prompt
from paretune.scoring import encoder as encode
from paretune.scoring.auto_head import AUTO, FORM, LONGEST, AutoHead, AutoReport
from paretune.scoring.auto_head import embedded as embedded_texts
from paretune.scoring.bradley_terry import last_user_message


@dataclass(frozen=True, eq=False)
class AutoData:
    """What a head is learned from.

    Attributes:
        prompts: The prompt of each row.
        targets: What the rows teach.
        objectives: M names.
        policy: Name of the policy.
        own_scores: Votes with the answers' own scores.
        left_out: Reason -> number of votes that were left out.
    """

    prompts: Sequence[Prompt]
    targets: Votes | Labels
    objectives: tuple[str, ...]
    policy: str
    own_scores: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)


def fit_auto(
    data: AutoData,
    folder: str | Path,
    force: bool = False,
    encoder: str = encode.DEFAULT_ENCODER,
    device: str | None = None,
    dtype: str = "auto",
) -> AutoHead:
    """Fit a head, write it to ``folder``, and return it; ``force`` keeps one that is not shown to be better than the constant.

    Prompts are told apart by the last message of the user, which is all that the head reads.

    Raises:
        DataError: Too few prompts, or the head is not shown to be better on held-out prompts.
        ModelError: The encoder is not available, or ``folder`` holds anything but an earlier head.
    """
    began = time.perf_counter()
    refuse_foreign(Path(folder), FORM)
    if AUTO in data.objectives:
        raise DataError(
            f"{data.policy} has an objective named {AUTO!r}, which a request could not tell from this head; rename the objective"
        )
    texts = [last_user_message(prompt)[:LONGEST] for prompt in data.prompts]
    # Sorted, so that the order of the rows does not matter to who is held out.
    distinct = sorted(set(texts))
    source = encode.locate(encoder)
    identity = encode.content_fingerprint(source)
    embeddings = embedded_texts(encode.load_encoder(source, device, dtype), distinct, says_cut=True)
    places = {text: place for place, text in enumerate(distinct)}
    place = np.array([places[text] for text in texts], dtype=np.int64)
    lessons = Lessons(embeddings, place, data.targets, data.objectives)
    shown = held_out(lessons)
    head = fit_chosen(lessons)
    votes = isinstance(data.targets, Votes)
    report = AutoReport(
        kind="votes" if votes else "labels",
        rows=len(texts),
        prompts=len(distinct),
        ties=int((data.targets.winners == 0).sum()) if isinstance(data.targets, Votes) else 0,
        own_scores=data.own_scores,
        left_out=dict(data.left_out),
        spread=head.spread,
        noise=head.noise,
        components=head.directions.shape[1],
        seconds=round(time.perf_counter() - began, 2),
        **shown.to_dict(),
    )
    made = AutoHead(head, data.policy, encoder, identity, report)
    if not report.better and not force:
        raise DataError(
            f"the head is {report}. Nothing is written: serve the constant preference {made.constant} with --preference, collect "
            "more, or keep the head all the same with --force"
        )
    made.save(folder)
    return made
