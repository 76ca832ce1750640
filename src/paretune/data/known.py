"""The public preference data sets known by name: where they are, what they measure, and how a record becomes a row.

A set is a function from records to rows, its `Source`, and its line in `KNOWN`, at the end. A record that its publisher released
broken (an empty response, two dialogues that part too early) becomes a `Dropped` with the reason; a record of another form than
expected is a DataError that lists the columns found.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

from paretune.core.errors import DataError
from paretune.data.columns import Records, list_of, merged, parse_dialogue, take, text_of
from paretune.data.readers import Record
from paretune.data.rows import Comparison, Message, Prompt, Row, number_from, prompt_from


class Dropped(NamedTuple):
    """A released record that cannot be used, and why."""

    where: str
    reason: str


Outcome = Row | Dropped


@dataclass(frozen=True)
class Source:
    """A public data set.

    Attributes:
        hub: Name on the hub; "" where there are only local files.
        licence: Licence that its publisher states.
        objectives: Objective -> direction of the released numbers; `load_data` negates those of ``lower``.
        rows: ``rows(records, part)`` turns ``(where, record)`` into rows; ``part`` is the folder and name of the file, or the
            folder on the hub.
        parts: Folders on the hub (``data_dir``), each read once.
        config: Configuration on the hub.
        splits: Split -> its name on the hub, where the two differ.
        skip: Pattern of the paths of local files that have another form; they are left out.
        named: Columns by which a record of the set is recognised, to name the set where its file is read as one's own.
    """

    hub: str
    licence: str
    objectives: Mapping[str, str]
    rows: Callable[[Records, str], Iterator[Outcome]]
    parts: tuple[str, ...] = ("",)
    config: str = ""
    splits: Mapping[str, str] = field(default_factory=dict)
    skip: str = ""
    named: frozenset[str] = frozenset()


def _usable(where: str, prompt: Prompt, responses: Sequence[str]) -> Dropped | None:
    if not any(message.content.strip() for message in prompt):
        return Dropped(where, "empty prompt")
    if not responses:
        return Dropped(where, "no response")
    if not all(response.strip() for response in responses):
        return Dropped(where, "empty response")
    return None


def _higher(*objectives: str) -> dict[str, str]:
    return dict.fromkeys(objectives, "higher")


def _hh_rlhf(records: Records, part: str) -> Iterator[Outcome]:
    """Bai et al. 2022 (arXiv 2204.05862): two dialogues that part at the last answer; the folder is the objective."""
    named = re.findall("helpful|harmless", part.lower())
    if not named:
        raise DataError(
            f"{part}: cannot tell the objective; expected 'helpful' or 'harmless' in the folder or file name"
        )
    for where, record in records:
        chosen = parse_dialogue(text_of(record, "chosen", where))
        rejected = parse_dialogue(text_of(record, "rejected", where))
        if not chosen or not rejected or {chosen[-1].role, rejected[-1].role} != {"assistant"}:
            yield Dropped(where, "not a dialogue that ends with the assistant")
        elif chosen[:-1] != rejected[:-1]:
            yield Dropped(where, "the dialogues part before the last answer")
        else:
            responses = (chosen[-1].content, rejected[-1].content)
            yield _usable(where, chosen[:-1], responses) or Row(
                chosen[:-1], responses, labels={named[-1]: ((0, 1, 1.0),)}, source=where
            )


HH_RLHF = Source(
    hub="Anthropic/hh-rlhf",
    licence="MIT",
    objectives=_higher("helpful", "harmless"),
    rows=_hh_rlhf,
    parts=("helpful-base", "helpful-online", "helpful-rejection-sampled", "harmless-base"),
    skip=r"red-team",
)


def _pku_saferlhf(records: Records, part: str) -> Iterator[Outcome]:
    """Ji et al. 2024 (arXiv 2406.15513): which of two responses is better, and which is safer."""
    for where, record in records:
        prompt = prompt_from(text_of(record, "prompt", where), "prompt", where)
        responses = tuple(text_of(record, column, where) for column in ("response_0", "response_1"))
        labels = {}
        for objective, column in (("helpful", "better_response_id"), ("harmless", "safer_response_id")):
            preferred = number_from(take(record, column, where), column, where)
            if preferred not in (0, 1) and not math.isnan(preferred):
                raise DataError(f"{where}: column {column!r}: expected 0, 1 or null, got {preferred:g}")
            labels[objective] = () if math.isnan(preferred) else ((0, 1, 1.0 if preferred == 0 else -1.0),)
        yield _usable(where, prompt, responses) or Row(prompt, responses, labels=labels, source=where)


PKU_SAFERLHF = Source(
    hub="PKU-Alignment/PKU-SafeRLHF",
    licence="CC-BY-NC-4.0",
    objectives=_higher("helpful", "harmless"),
    rows=_pku_saferlhf,
    named=frozenset({"response_0", "better_response_id"}),
)


def _beavertails(records: Records, part: str) -> Iterator[Outcome]:
    """Ji et al. 2023 (arXiv 2307.04657): responses judged safe (1) or not (0), grouped by prompt."""
    groups: dict[str, list[tuple[str, str, float]]] = {}
    for where, record in records:
        safe = take(record, "is_safe", where)
        if not isinstance(safe, bool):
            raise DataError(f"{where}: column 'is_safe': expected true or false, got {safe!r:.60}")
        prompt, response = text_of(record, "prompt", where), text_of(record, "response", where)
        dropped = _usable(where, (Message("user", prompt),), [response])
        if dropped:
            yield dropped
        else:
            groups.setdefault(prompt, []).append((where, response, float(safe)))
    for prompt, answers in groups.items():
        wheres, responses, scores = zip(*answers, strict=True)
        yield Row((Message("user", prompt),), responses, {"harmless": scores}, source=wheres[0])


BEAVERTAILS = Source(
    hub="PKU-Alignment/BeaverTails",
    licence="CC-BY-NC-4.0",
    objectives=_higher("harmless"),
    rows=_beavertails,
    named=frozenset({"response", "is_safe"}),
    splits={"train": "330k_train", "test": "330k_test"},
    skip=r"(^|/)30k(/|_)",  # a part of 330k
)


HELPSTEER2_ASPECTS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def _helpsteer2(records: Records, part: str) -> Iterator[Outcome]:
    """Wang et al. 2024 (arXiv 2406.08673): five ratings 0 to 4; responses to one prompt are in adjacent records."""
    group: list[tuple[str, Record]] = []
    for where, record in records:
        if group and group[0][1]["prompt"] != text_of(record, "prompt", where):
            yield from _helpsteer2_rows(group)
            group = []
        group.append(
            (
                where,
                {
                    column: take(record, column, where)
                    for column in ("prompt", "response", *HELPSTEER2_ASPECTS)
                },
            )
        )
    if group:
        yield from _helpsteer2_rows(group)


def _helpsteer2_rows(group: list[tuple[str, Record]]) -> Iterator[Outcome]:
    first, text = group[0][0], text_of(group[0][1], "prompt", group[0][0])
    # Several turns are written "question\n<extra_id_1>Assistant\nanswer\n<extra_id_1>User\nnext question".
    opening, *rest = re.split(r"\n?<extra_id_1>(User|Assistant)\n", text)
    turns = [("user", opening)] if opening.strip() else []
    turns += [(role.lower(), turn) for role, turn in zip(rest[::2], rest[1::2], strict=True)]
    prompt = merged(turns)
    answers: list[tuple[str, list[float]]] = []
    for where, record in group:
        response = text_of(record, "response", where)
        dropped = _usable(where, prompt, [response])
        if dropped:
            yield dropped
        else:
            answers.append(
                (response, [number_from(record[name], name, where) for name in HELPSTEER2_ASPECTS])
            )
    if answers:
        responses, ratings = zip(*answers, strict=True)
        yield Row(
            prompt,
            responses,
            dict(zip(HELPSTEER2_ASPECTS, zip(*ratings, strict=True), strict=True)),
            source=first,
        )


HELPSTEER2 = Source(
    hub="nvidia/HelpSteer2",
    licence="CC-BY-4.0",
    # As rated. Whoever wants short answers states verbosity: lower, as NVIDIA's own mixes do.
    objectives=_higher(*HELPSTEER2_ASPECTS),
    rows=_helpsteer2,
    named=frozenset({"prompt", "response", *HELPSTEER2_ASPECTS}),
    skip=r"(^|/)(preference|disagreements)/",
)


def _helpsteer3(records: Records, part: str) -> Iterator[Outcome]:
    """Wang et al. 2025 (arXiv 2505.11475): -3 (response 1 is much better) to 3 (response 2 is)."""
    for where, record in records:
        prompt = prompt_from(take(record, "context", where), "context", where)
        responses = (text_of(record, "response1", where), text_of(record, "response2", where))
        preference = number_from(take(record, "overall_preference", where), "overall_preference", where)
        if not abs(preference) <= 3:
            raise DataError(f"{where}: column 'overall_preference': expected -3 to 3, got {preference:g}")
        yield _usable(where, prompt, responses) or Row(
            prompt, responses, labels={"overall": ((0, 1, -preference / 3 + 0.0),)}, source=where
        )


HELPSTEER3 = Source(
    hub="nvidia/HelpSteer3",
    licence="CC-BY-4.0",
    objectives=_higher("overall"),
    rows=_helpsteer3,
    named=frozenset({"context", "response1", "overall_preference"}),
    config="preference",
    skip=r"(^|/)(feedback|edit|edit_quality)/",
)


ULTRAFEEDBACK_ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


def _ultrafeedback(records: Records, part: str) -> Iterator[Outcome]:
    """Cui et al. 2023 (arXiv 2310.01377): four aspects rated 1 to 5, as text; ``N/A`` is missing."""
    for where, record in records:
        prompt = prompt_from(text_of(record, "instruction", where), "instruction", where)
        completions = list_of(record, "completions", where)
        responses = [text_of(completion, "response", where) for completion in completions]
        scores = {
            aspect: tuple(
                _rating(
                    take(take(take(completion, "annotations", where), aspect, where), "Rating", where),
                    aspect,
                    where,
                )
                for completion in completions
            )
            for aspect in ULTRAFEEDBACK_ASPECTS
        }
        yield _usable(where, prompt, responses) or Row(prompt, tuple(responses), scores, source=where)


def _rating(value: object, aspect: str, where: str) -> float:
    text = str(value).strip()
    if value is None or text.upper() == "N/A":
        return math.nan
    column = f"annotations.{aspect}.Rating"
    if re.fullmatch(r"[-+]?\d+(\.\d*)?", text):
        return number_from(float(text), column, where)
    raise DataError(f"{where}: column {column!r}: expected a number or 'N/A', got {value!r:.60}")


ULTRAFEEDBACK = Source(
    hub="openbmb/UltraFeedback",
    licence="MIT",
    objectives=_higher(*ULTRAFEEDBACK_ASPECTS),
    rows=_ultrafeedback,
    named=frozenset({"instruction", "completions"}),
)


def _nectar(records: Records, part: str) -> Iterator[Outcome]:
    """Zhu et al. 2023 (Starling): seven responses ranked by GPT-4, 1 is best; score: rank negated."""
    for where, record in records:
        text = text_of(record, "prompt", where)
        prompt = parse_dialogue(text) or (Message("user", text),)
        if prompt[-1].role == "assistant" and not prompt[-1].content:
            prompt = prompt[:-1]  # the text ends with "Assistant:", where the answer goes
        if prompt and prompt[-1].role == "assistant":
            yield Dropped(where, "the prompt ends with the assistant")
            continue
        answers = list_of(record, "answers", where)
        responses = tuple(text_of(answer, "answer", where) for answer in answers)
        ranks = [number_from(take(answer, "rank", where), "answers.rank", where) for answer in answers]
        yield _usable(where, prompt, responses) or Row(
            prompt, responses, {"overall": tuple(-rank for rank in ranks)}, source=where
        )


NECTAR = Source(
    hub="berkeley-nest/Nectar",
    licence="Apache-2.0",
    objectives=_higher("overall"),
    rows=_nectar,
    named=frozenset({"prompt", "answers"}),
)


TOPICAL_CHAT_ASPECTS = ("understandability", "naturalness", "coherence", "engagingness", "groundedness", "overall")  # fmt: skip


def _topical_chat(records: Records, part: str) -> Iterator[Outcome]:
    """Mehri and Eskenazi 2020 (USR), as released with UniEval: six mean ratings for each of six responses.

    The fact the speakers had before them is the system message; the turn before the response is the user's,
    so a dialogue of an even number of turns opens with the assistant.
    """
    groups: dict[tuple[str, str], list[tuple[str, str, list[float]]]] = {}
    for where, record in records:
        scores = take(record, "scores", where)
        ratings = [
            number_from(take(scores, name, where), f"scores.{name}", where) for name in TOPICAL_CHAT_ASPECTS
        ]
        key = (text_of(record, "source", where), text_of(record, "context", where))
        groups.setdefault(key, []).append((where, text_of(record, "system_output", where).strip(), ratings))
    for (dialogue, fact), answers in groups.items():
        wheres, responses, ratings_K_M = zip(*answers, strict=True)
        turns = [turn.strip() for turn in dialogue.split("\n") if turn.strip()]
        messages = [
            Message("user" if (len(turns) - i) % 2 else "assistant", turn) for i, turn in enumerate(turns)
        ]
        if fact.strip() not in ("", "_nofact"):
            messages.insert(0, Message("system", fact.strip()))
        scores = dict(zip(TOPICAL_CHAT_ASPECTS, zip(*ratings_K_M, strict=True), strict=True))
        yield _usable(wheres[0], tuple(messages), responses) or Row(
            tuple(messages), responses, scores, source=wheres[0]
        )


TOPICAL_CHAT = Source(
    hub="",
    licence="MIT (as released with UniEval)",
    objectives=_higher(*TOPICAL_CHAT_ASPECTS),
    rows=_topical_chat,
    named=frozenset({"system_output", "scores"}),
)


QA_ERRORS = {
    "relevance": ("Irrelevant", "Redundant", "Incoherent"),
    "factuality": ("Wrong-Grounding", "Unverifiable"),
}


def _qa_feedback(records: Records, part: str) -> Iterator[Outcome]:
    """Wu et al. 2023 (arXiv 2306.01693): errors marked in prediction 1, and all six comparisons of four
    predictions.

    The scores of prediction 1 are counts of errors (of missing pieces for completeness), negated; the other
    predictions have none. In ``preference`` 1 is the first of the two, 2 the second, 0 a tie, in the order
    (1,2), (1,3) ... (3,4).
    """
    for where, record in records:
        given = [list_of({"passages": one}, "passages", where) for one in list_of(record, "passages", where)]
        passages = ["\n".join(map(str, passage)) for passage in given]
        content = "\n\n".join([*passages, text_of(record, "question", where)])
        responses = tuple(text_of(record, f"prediction {i}", where) for i in range(1, 5))
        feedback = take(record, "feedback", where)
        errors = [take(error, "error type", where) for error in list_of(feedback, "errors", where)]
        known = {kind for kinds in QA_ERRORS.values() for kind in kinds}
        strange = sorted(set(map(str, errors)) - known)
        if strange:
            raise DataError(
                f"{where}: column 'feedback.errors': unknown error type {strange[0]!r}; known: "
                f"{sorted(known)}"
            )
        counts = {name: sum(error in kinds for error in errors) for name, kinds in QA_ERRORS.items()}
        counts["completeness"] = len(list_of(feedback, "missing-info", where))
        codes = [number_from(code, "preference", where) for code in list_of(record, "preference", where)]
        if len(codes) != 6 or not set(codes) <= {0, 1, 2}:
            raise DataError(
                f"{where}: column 'preference': expected six values in 0, 1, 2, got {codes!r:.60}"
            )
        compared: tuple[Comparison, ...] = tuple(
            (a, b, (0.0, 1.0, -1.0)[int(code)])
            for (a, b), code in zip(combinations(range(4), 2), codes, strict=True)
        )
        prompt = (Message("user", content),)
        yield _usable(where, prompt, responses) or Row(
            prompt,
            responses,
            {name: (0.0 - count, math.nan, math.nan, math.nan) for name, count in counts.items()},
            {"preference": compared},
            source=where,
        )


QA_FEEDBACK = Source(
    hub="",
    licence="Apache-2.0",
    objectives=_higher("relevance", "factuality", "completeness", "preference"),
    rows=_qa_feedback,
    named=frozenset({"prediction 1", "feedback"}),
)


DSP_ASPECTS = ("academy", "business", "entertainment", "literature", "normal")


def _dsp_domains(records: Records, part: str) -> Iterator[Outcome]:
    """Cheng et al. 2023 (arXiv 2309.03126): the response written for a domain is preferred to the others by design."""
    for where, record in records:
        prompt = prompt_from(text_of(record, "query", where), "query", where)
        written = take(record, "responses", where)
        responses = tuple(text_of(written, domain, where) for domain in DSP_ASPECTS)
        labels = {
            domain: tuple((aspect, other, 1.0) for other in range(len(DSP_ASPECTS)) if other != aspect)
            for aspect, domain in enumerate(DSP_ASPECTS)
        }
        yield _usable(where, prompt, responses) or Row(prompt, responses, labels=labels, source=where)


DSP_DOMAINS = Source(
    hub="",
    licence="CC-BY-NC-4.0",
    objectives=_higher(*DSP_ASPECTS),
    rows=_dsp_domains,
    named=frozenset({"query", "responses"}),
)


KNOWN: dict[str, Source] = {
    "hh-rlhf": HH_RLHF,
    "pku-saferlhf": PKU_SAFERLHF,
    "beavertails": BEAVERTAILS,
    "helpsteer2": HELPSTEER2,
    "helpsteer3": HELPSTEER3,
    "ultrafeedback": ULTRAFEEDBACK,
    "nectar": NECTAR,
    "topical-chat": TOPICAL_CHAT,
    "qa-feedback": QA_FEEDBACK,
    "dsp-domains": DSP_DOMAINS,
}
