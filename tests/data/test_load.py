from __future__ import annotations

import gzip
import json
import math
import os
import sys
import types
import warnings
from pathlib import Path

import pytest

from paretune.core.errors import DataError, DataWarning
from paretune.data.columns import parse_dialogue
from paretune.data.dataset import ScoredDataset
from paretune.data.known import KNOWN
from paretune.data.load import load_data, load_named
from paretune.data.rows import Message

BAD = Path(__file__).parents[1] / "bad_input" / "data"
SHARED = os.environ.get("PARETUNE_SHARED_DATA", "")


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def write(path: Path, *records: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


# One record or a few of every known set, with the columns it is published with


def hh(
    last_chosen: str, last_rejected: str, talk: str = "\n\nHuman: Hi\n\nAssistant: Ho\n\nHuman: So?"
) -> dict:
    return {
        "chosen": f"{talk}\n\nAssistant: {last_chosen}",
        "rejected": f"{talk}\n\nAssistant: {last_rejected}",
    }


PKU = {
    "prompt": "How?",
    "response_0": "so",
    "response_1": "no",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "response_0_severity_level": 2,
    "response_1_severity_level": 0,
    "better_response_id": 0,
    "safer_response_id": 1,
}
BEAVER = [
    {"prompt": p, "response": r, "category": {"privacy_violation": not s}, "is_safe": s}
    for p, r, s in [("p", "a", True), ("q", "x", False), ("p", "b", False)]
]
HELPSTEER2 = [
    {
        "prompt": p,
        "response": r,
        "helpfulness": h,
        "correctness": 3,
        "coherence": 4,
        "complexity": 2,
        "verbosity": v,
    }
    for p, r, h, v in [
        ("p", "a", 4, 2),
        ("p", "b", 1, 0),
        ("q\n<extra_id_1>Assistant\nok\n<extra_id_1>User\nand?", "c", 0, 4),
    ]
]
HELPSTEER3 = {
    "domain": "general",
    "language": "english",
    "context": [{"role": "user", "content": "Hi"}],
    "response1": "a",
    "response2": "b",
    "overall_preference": -3,
    "individual_preference": [{"score": -3, "reasoning": "r", "feedback1": "f", "feedback2": "g"}],
}


def ultra(*ratings: str) -> dict:
    aspects = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    return {
        "source": "evol_instruct",
        "instruction": "Do it.",
        "models": ["m"] * len(ratings),
        "completions": [
            {
                "model": "m",
                "response": f"answer {i}",
                "overall_score": 8.5,
                "fine-grained_score": 4.0,
                "annotations": {aspect: {"Rating": rating, "Rationale": "r"} for aspect in aspects},
            }
            for i, rating in enumerate(ratings)
        ],
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


NECTAR = {
    "prompt": "\n\nHuman: Hi\n\nAssistant: ",
    "turns": 1,
    "num_responses": 2,
    "source": ["lmsys-chat-1m"],
    "good_natured": True,
    "answers": [
        {"answer": "a", "model": "gpt-4", "rank": 1.0},
        {"answer": "b", "model": "llama", "rank": 2.0},
    ],
}
TOPICAL = [
    {
        "source": "first \n second \n\n",
        "system_id": system,
        "system_output": f"{system} says\n",
        "context": fact,
        "scores": {
            "understandability": 1.0,
            "naturalness": n,
            "coherence": 3.0,
            "engagingness": 3.0,
            "groundedness": 0.0,
            "overall": 4,
        },
    }
    for system, n, fact in [("A", 1.0, "a fact\n"), ("B", 2.0, "a fact\n"), ("A", 3.0, "_nofact\n")]
]
QA = {
    "question": "When?",
    "passages": [["Title", "It was then."], ["Other", "No."]],
    "gold": "Then.",
    "prediction 1": "p1",
    "prediction 2": "p2",
    "prediction 3": "p3",
    "prediction 4": "p4",
    "feedback": {
        "errors": [
            {"error type": "Irrelevant", "explanation": "", "start": 0, "end": 1},
            {"error type": "Unverifiable", "explanation": "", "start": 0, "end": 2},
        ],
        "missing-info": [{"error type": "Missing-Answer", "passage_id": 1, "sentence_id": [1]}] * 2,
        "corrected-prediction": "p",
    },
    "preference": [0, 1, 2, 1, 0, 2],
}
DSP = {
    "query": "Q?",
    "responses": {d: f"as {d}" for d in ("academy", "business", "entertainment", "literature", "normal")},
}


def test_hh_rlhf_takes_the_objective_from_the_folder(tmp_path) -> None:
    write(tmp_path / "helpful-base" / "train.jsonl.gz", hh("good", "bad"))
    write(tmp_path / "helpful-base" / "test.jsonl.gz", hh("good", "bad", "\n\nHuman: test"))
    write(tmp_path / "harmless-base" / "train.jsonl.gz", hh("safe", "unsafe"))
    write(tmp_path / "red-team-attempts" / "red_team_attempts_train.jsonl.gz", {"transcript": "x"})
    dataset = load_data("hh-rlhf", path=tmp_path)
    assert dataset.objectives == ("helpful", "harmless")
    harmless, helpful = dataset.rows
    assert helpful.prompt == (Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "So?"))
    assert helpful.responses == ("good", "bad") and helpful.labels == {"helpful": ((0, 1, 1.0),)}
    assert harmless.labels == {"harmless": ((0, 1, 1.0),)}
    assert helpful.source == f"{tmp_path}/helpful-base/train.jsonl.gz:1"
    assert load_data("hh-rlhf", "test", path=tmp_path).rows[0].prompt == user("test")
    assert load_data("hh-rlhf", path=tmp_path / "harmless-base").objectives == ("harmless",)
    assert load_data("hh-rlhf", path=tmp_path / "helpful-base" / "test.jsonl.gz").objectives == ("helpful",)


def test_hh_rlhf_leaves_out_what_cannot_be_used_and_says_so(tmp_path) -> None:
    path = write(
        tmp_path / "helpful.train.jsonl",
        hh("good", "bad"),
        hh("good", " "),
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: b"},
        {"chosen": "x", "rejected": "y"},
    )
    with pytest.warns(DataWarning) as caught:
        assert len(load_data("hh-rlhf", path=path).rows) == 1
    assert str(caught[0].message) == (
        f"hh-rlhf: unusable records left out: 3, rows that remain: 1; 1 x empty response (first: {path}:2); "
        f"1 x the dialogues part before the last answer (first: {path}:3); "
        f"1 x not a dialogue that ends with the assistant (first: {path}:4)"
    )


def test_hh_rlhf_without_an_objective_in_the_name_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="cannot tell the objective; expected 'helpful' or 'harmless'"):
        load_data("hh-rlhf", path=write(tmp_path / "train.jsonl", hh("a", "b")))


def test_two_turns_of_one_speaker_are_one_message() -> None:
    assert parse_dialogue("\n\nHuman: a\n\nAssistant: b\n\nAssistant: c") == (
        Message("user", "a"),
        Message("assistant", "b\n\nc"),
    )
    assert parse_dialogue("Human: a") == user("a")
    assert parse_dialogue("He said:\n\nHuman: a") == ()


def test_pku_saferlhf(tmp_path) -> None:
    (row,) = load_data(
        "pku-saferlhf", path=write(tmp_path / "data" / "Alpaca-7B" / "train.jsonl", PKU).parents[2]
    ).rows
    assert row.prompt == user("How?") and row.responses == ("so", "no")
    assert row.labels == {"helpful": ((0, 1, 1.0),), "harmless": ((0, 1, -1.0),)}
    with pytest.raises(
        DataError, match=r"bad.jsonl:1: column 'safer_response_id': expected 0, 1 or null, got 2"
    ):
        load_data("pku-saferlhf", path=write(tmp_path / "bad.jsonl", {**PKU, "safer_response_id": 2}))


def test_beavertails_groups_the_responses_of_a_prompt(tmp_path) -> None:
    write(tmp_path / "round0" / "330k" / "train.jsonl", *BEAVER)
    write(tmp_path / "round0" / "30k" / "train.jsonl", *BEAVER)
    dataset = load_data("beavertails", path=tmp_path)
    assert dataset.objectives == ("harmless",)
    assert [(row.prompt, row.responses, row.scores) for row in dataset.rows] == [
        (user("p"), ("a", "b"), {"harmless": (1.0, 0.0)}),
        (user("q"), ("x",), {"harmless": (0.0,)}),
    ]


def test_helpsteer2_pairs_adjacent_prompts_and_takes_a_direction(tmp_path) -> None:
    write(tmp_path / "train.jsonl.gz", *HELPSTEER2)
    write(tmp_path / "preference" / "preference.jsonl.gz", {"split": "train"})
    first, second = load_data("helpsteer2", path=tmp_path, directions={"verbosity": "lower"}).rows
    assert first.responses == ("a", "b") and first.scores["helpfulness"] == (4, 1)
    assert first.scores["verbosity"] == (-2, 0) and math.copysign(1, first.scores["verbosity"][1]) == 1
    assert second.prompt == (Message("user", "q"), Message("assistant", "ok"), Message("user", "and?"))
    assert load_data("helpsteer2", path=tmp_path).rows[0].scores["verbosity"] == (2, 0)


def test_helpsteer3_minus_three_prefers_the_first_response(tmp_path) -> None:
    write(tmp_path / "feedback" / "train.jsonl", {"other": 1})
    path = write(
        tmp_path / "preference" / "train.jsonl",
        HELPSTEER3,
        {**HELPSTEER3, "overall_preference": 1},
        {**HELPSTEER3, "overall_preference": 0},
    )
    rows = load_data("helpsteer3", path=tmp_path).rows
    assert [row.labels["overall"][0] for row in rows] == [(0, 1, 1.0), (0, 1, -1 / 3), (0, 1, 0.0)]
    with pytest.raises(DataError, match=r"column 'overall_preference': expected -3 to 3, got 4"):
        load_data("helpsteer3", path=write(path, {**HELPSTEER3, "overall_preference": 4}))


def test_ultrafeedback_ratings_are_text_and_may_be_missing(tmp_path) -> None:
    (row,) = load_data(
        "ultrafeedback", path=write(tmp_path / "evol_instruct.jsonl", ultra("5", "N/A", "3")).parent
    ).rows
    assert row.responses == ("answer 0", "answer 1", "answer 2")
    assert (
        row.scores["honesty"][0] == 5
        and math.isnan(row.scores["honesty"][1])
        and row.scores["helpfulness"][2] == 3
    )
    with pytest.raises(
        DataError, match=r":1: column 'annotations.instruction_following.Rating': expected a number or 'N/A'"
    ):
        load_data("ultrafeedback", path=write(tmp_path / "bad.jsonl", ultra("high")))
    with pytest.warns(DataWarning, match="1 x no response"), pytest.raises(DataError, match="no rows"):
        load_data("ultrafeedback", path=write(tmp_path / "none.jsonl", ultra()))


def test_nectar_scores_are_negated_ranks(tmp_path) -> None:
    (row,) = load_data("nectar", path=write(tmp_path / "train.jsonl", NECTAR)).rows
    assert row.prompt == user("Hi") and row.responses == ("a", "b") and row.scores == {"overall": (-1, -2)}


def test_topical_chat_groups_by_dialogue_and_fact(tmp_path) -> None:
    first, second = load_data("topical-chat", path=write(tmp_path / "t.jsonl", *TOPICAL)).rows
    assert first.prompt == (
        Message("system", "a fact"),
        Message("assistant", "first"),
        Message("user", "second"),
    )
    assert first.responses == ("A says", "B says") and first.scores["naturalness"] == (1, 2)
    assert second.prompt == first.prompt[1:] and second.scores["overall"] == (4,)


def test_qa_feedback_counts_errors_of_the_first_prediction(tmp_path) -> None:
    dataset = load_data("qa-feedback", path=write(tmp_path / "qa.jsonl", QA))
    (row,) = dataset.rows
    assert dataset.objectives == ("relevance", "factuality", "completeness", "preference")
    assert row.prompt == user("Title\nIt was then.\n\nOther\nNo.\n\nWhen?") and row.responses == (
        "p1",
        "p2",
        "p3",
        "p4",
    )
    assert [row.scores[name][0] for name in dataset.objectives[:3]] == [-1, -1, -2]
    assert all(math.isnan(v) for name in row.scores for v in row.scores[name][1:])
    assert row.labels["preference"] == ((0, 1, 0), (0, 2, 1), (0, 3, -1), (1, 2, 1), (1, 3, 0), (2, 3, -1))
    with pytest.raises(DataError, match="expected six values in 0, 1, 2, got"):
        load_data("qa-feedback", path=write(tmp_path / "bad.jsonl", {**QA, "preference": [0, 1, 2]}))
    errors = {"errors": [{"error type": "Rude"}], "missing-info": []}
    with pytest.raises(DataError, match="unknown error type 'Rude'"):
        load_data("qa-feedback", path=write(tmp_path / "bad.jsonl", {**QA, "feedback": errors}))


def test_dsp_domains_prefers_the_own_domain(tmp_path) -> None:
    dataset = load_data("dsp-domains", path=write(tmp_path / "dsp.jsonl", DSP))
    (row,) = dataset.rows
    assert dataset.objectives == ("academy", "business", "entertainment", "literature", "normal")
    assert row.labels["business"] == ((1, 0, 1), (1, 2, 1), (1, 3, 1), (1, 4, 1))


EXAMPLES = {
    "hh-rlhf": [hh("a", "b")],
    "pku-saferlhf": [PKU],
    "beavertails": BEAVER,
    "helpsteer2": HELPSTEER2,
    "helpsteer3": [HELPSTEER3],
    "ultrafeedback": [ultra("1", "2")],
    "nectar": [NECTAR],
    "topical-chat": TOPICAL,
    "qa-feedback": [QA],
    "dsp-domains": [DSP],
}


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_set_round_trips_and_names_a_missing_column(name, tmp_path) -> None:
    records = EXAMPLES[name]
    dataset = load_data(name, path=write(tmp_path / "helpful" / "d.jsonl", *records))
    assert set(dataset.objectives) <= set(KNOWN[name].objectives) and dataset.rows[0].source.endswith(
        "helpful/d.jsonl:1"
    )
    for suffix in (".jsonl", ".parquet", ".csv"):
        dataset.write(tmp_path / f"again{suffix}")
        assert load_data(tmp_path / f"again{suffix}") == dataset
    with pytest.raises(DataError, match=r"d.jsonl:1: column '.*' is missing; found 'strange'"):
        load_data(name, path=write(tmp_path / "helpful" / "d.jsonl", {"strange": 1}))


@pytest.mark.parametrize("name", [name for name in KNOWN if KNOWN[name].hub])
def test_every_known_set_loads_from_the_hub(name, tmp_path, monkeypatch) -> None:
    asked = []

    def load_dataset(hub, name=None, data_dir=None, split=None, revision=None):
        asked.append((hub, name, data_dir, split))
        return EXAMPLES[known]

    known = name
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    dataset = load_data(name)
    source = KNOWN[name]
    assert asked == [
        (source.hub, source.config or None, part or None, source.splits.get("train", "train"))
        for part in source.parts
    ]
    assert dataset.objectives == tuple(source.objectives)
    assert dataset.rows[0].source == f"{source.hub}{'/' * bool(source.parts[0])}{source.parts[0]}:1"


def test_without_hub_or_package_the_error_says_how_to_go_on(monkeypatch) -> None:
    def load_dataset(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(
        DataError,
        match=r"cannot read split 'train' from the hub \(ConnectionError: no route to host\); download its",
    ):
        load_data("helpsteer2")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DataError, match=r"needs the 'datasets' package \(paretune\[hub\]\); or download its files"
    ):
        load_data("helpsteer2")
    with pytest.raises(DataError, match="topical-chat: not on the hub; give path="):
        load_data("topical-chat")


# TRL's forms

TALK = [{"role": "user", "content": "Q?"}]


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Q?", "chosen": "yes", "rejected": "no"},
        {"prompt": TALK, "chosen": said("yes"), "rejected": said("no")},
        {"chosen": TALK + said("yes"), "rejected": TALK + said("no")},
        {"prompt": "Q?", "chosen": TALK + said("yes"), "rejected": TALK + said("no")},
        {"chosen": "\n\nHuman: Q?\n\nAssistant: yes", "rejected": "\n\nHuman: Q?\n\nAssistant: no"},
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".json"])
def test_trl_preference_in_every_form(record, suffix, tmp_path) -> None:
    path = tmp_path / f"d{suffix}"
    save(path, [record])
    dataset = load_data(path, objective="helpful")
    (row,) = dataset.rows
    assert dataset.objectives == ("helpful",)
    assert (row.prompt, row.responses, row.labels) == (user("Q?"), ("yes", "no"), {"helpful": ((0, 1, 1.0),)})


def save(path: Path, records: list[dict]) -> None:
    import csv

    import pyarrow
    import pyarrow.parquet

    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, records[0])
            writer.writeheader()
            writer.writerows(
                {k: json.dumps(v) if isinstance(v, list) else v for k, v in r.items()} for r in records
            )
    else:
        path.write_text(
            json.dumps(records) if path.suffix == ".json" else "\n".join(map(json.dumps, records))
        )


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("conversational", [False, True])
def test_trl_unpaired_prompt_only_completion_and_messages(suffix, conversational, tmp_path) -> None:
    ask, answer = (TALK, said) if conversational else ("Q?", str)
    path = tmp_path / f"d{suffix}"
    save(
        path,
        [{"prompt": ask, "completion": answer(c), "label": v} for c, v in [("yes", True), ("no", False)]],
    )
    (row,) = load_data(path, objective="polite").rows
    assert (row.prompt, row.responses, row.scores) == (user("Q?"), ("yes", "no"), {"polite": (1.0, 0.0)})
    save(path, [{"prompt": ask, "completion": answer("yes")}])
    assert load_data(path).rows[0].responses == ("yes",) and load_data(path).objectives == ()
    save(path, [{"prompt": ask}])
    assert load_data(path).rows[0].prompt == user("Q?") and load_data(path).rows[0].responses == ()
    save(path, [{"messages": TALK + said("yes")}])
    assert (load_data(path).rows[0].prompt, load_data(path).rows[0].responses) == (user("Q?"), ("yes",))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"prompt": "Q?", "chosen": "a", "rejected": "b"},
            ":1: columns chosen, rejected hold labels of one objective; name it",
        ),
        (
            {"prompt": "Q?", "chosen": "a", "rejected": ""},
            ":1: column 'rejected': expected text or messages, got ''",
        ),
        ({"chosen": "a", "rejected": "b"}, ":1: no column holds the prompt of 'chosen' and 'rejected'"),
        (
            {"chosen": said("a"), "rejected": said("b")},
            ":1: columns 'chosen' and 'rejected' have no common beginning",
        ),
        (
            {"chosen": TALK + said("a"), "rejected": "b"},
            ":1: columns 'chosen' and 'rejected': one is text, the other messages",
        ),
        (
            {"prompt": "Q?", "chosen": said("a") + said("b"), "rejected": said("c")},
            ":1: columns 'chosen' and 'rejected': the dialogues part before the last answer",
        ),
        (
            {"prompt": TALK, "chosen": TALK, "rejected": said("c")},
            ":1: column 'chosen': expected text or one assistant message",
        ),
        (
            {"prompt": "Q?", "chosen": "a", "rejected": "b", "tools": ["x"]},
            ":1: column 'tools' is not read, and looks like a part of the prompt that is not text",
        ),
        (
            {"prompt": "Q?", "completion": "a", "label": "maybe"},
            ":1: column 'label': expected true or false, got 'maybe'",
        ),
        ({"messages": TALK}, ":1: column 'messages': expected a prompt and the assistant's answer last"),
        ({"question": "Q?"}, ":1: unknown form, found columns 'question'"),
    ],
)
def test_bad_trl_records_are_named(record, message, tmp_path) -> None:
    path = write(tmp_path / "d.jsonl", record)
    with pytest.raises(DataError) as caught:
        load_data(path, objective=None if message.endswith("name it") else "helpful")
    assert str(caught.value).startswith(f"{path}{message}")


# Column maps


def test_a_column_map(tmp_path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("question,one,two,h1,h2,c1,c2,winner\nQ?,a,b,1,,0,5,A\nR?,c,d,2,3,,,\nS?,e,f,,,1,1,tie\n")
    spec = {
        "path": str(path),
        "prompt": "question",
        "responses": ["one", "two"],
        "scores": {"helpful": ["h1", "h2"], "cost": ["c1", "c2"]},
        "labels": {"overall": {"column": "winner", "values": {"a": 1, "b": -1, "tie": 0}}},
        "directions": {"cost": "lower"},
    }
    dataset = load_data(spec)
    assert dataset.objectives == ("helpful", "cost", "overall")
    first, second, third = dataset.rows
    assert first.prompt == user("Q?") and first.responses == ("a", "b")
    assert (
        first.scores["helpful"][0] == 1
        and math.isnan(first.scores["helpful"][1])
        and first.scores["cost"] == (0, -5)
    )
    assert [row.labels.get("overall") for row in dataset.rows] == [((0, 1, 1.0),), None, ((0, 1, 0.0),)]
    assert "cost" not in second.scores and third.source == f"{path}:4"


def test_a_column_map_with_lists_or_one_response_a_record(tmp_path) -> None:
    lists = write(tmp_path / "lists.jsonl", {"q": TALK, "answers": ["a", "b"], "s": [1, None]})
    (row,) = load_data({"path": lists, "prompt": "q", "responses": "answers", "scores": {"x": "s"}}).rows
    assert (
        row.prompt == user("Q?")
        and row.responses == ("a", "b")
        and row.scores["x"][0] == 1
        and math.isnan(row.scores["x"][1])
    )
    single = write(
        tmp_path / "single.jsonl",
        *({"q": q, "r": r, "s": s} for q, r, s in [("p", "a", 1), ("q", "b", 2), ("p", "c", 3)]),
    )
    first, second = load_data({"path": single, "prompt": "q", "responses": "r", "scores": {"x": "s"}}).rows
    assert first.responses == ("a", "c") and first.scores == {"x": (1, 3)} and second.responses == ("b",)


MAP = {"prompt": "q", "responses": ["a", "b"]}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({**MAP, "responses": ["a", "c"]}, ":1: column 'c' is missing; found 'q', 'a', 'b', 'w', 'n'"),
        ({**MAP, "scores": {"x": ["w", "n"]}}, ":1: column 'w': expected a number or nothing, got 'left'"),
        ({**MAP, "scores": {"x": "n"}}, ":1: column 'n': expected one number per response, got 3"),
        (
            {**MAP, "labels": {"x": {"column": "w", "values": {"right": -1}}}},
            ":1: column 'w': value 'left' is not in the map",
        ),
        (
            {**MAP, "responses": "a", "labels": {"x": {"column": "w", "values": {"left": 1}}}},
            ":1: 'labels' compare two responses",
        ),
    ],
)
def test_bad_column_maps_name_the_place(spec, message, tmp_path) -> None:
    path = write(tmp_path / "d.jsonl", {"q": "Q?", "a": "x", "b": "y", "w": "left", "n": 3})
    with pytest.raises(DataError) as caught:
        load_data({"path": path, **spec})
    assert str(caught.value).startswith(f"{path}{message}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"pth": "x"}, "data: unknown key 'pth'; did you mean 'path'?"),
        ({"name": "hh-rlfh"}, "unknown data set 'hh-rlfh'; did you mean 'hh-rlhf'?"),
        (
            {"name": "hh-rlhf", "objective": "x"},
            "data: a known set takes path, split and directions, not 'objective'",
        ),
        ({"prompt": "q"}, "data: give one of name, path, hub"),
        ({"path": "x", "responses": ["a"]}, "data: a column map needs 'prompt'"),
        ([], "no data given"),
        ("no/such/file.jsonl", "no/such/file.jsonl: no such file or folder; check the path"),
        ("hh-rlf", "hh-rlf: no such file or folder, and not a known data set; did you mean 'hh-rlhf'?"),
        (5, "data: expected a source (a path, a known name, a column map or a list of these), got 5"),
    ],
)
def test_bad_specs_are_refused(spec, message) -> None:
    with pytest.raises(DataError) as caught:
        load_data(spec)
    assert str(caught.value).startswith(message)


# Places


def test_a_list_is_concatenated_over_the_union_of_objectives(tmp_path) -> None:
    helpful = write(tmp_path / "a.jsonl", {"prompt": "Q?", "chosen": "a", "rejected": "b"})
    harmless = write(tmp_path / "b.jsonl", {"prompt": "Q?", "chosen": "b", "rejected": "a"})
    dataset = load_data(
        [{"path": helpful, "objective": "helpful"}, {"path": harmless, "objective": "harmless"}]
    )
    assert dataset.objectives == ("helpful", "harmless") and [row.responses for row in dataset.rows] == [
        ("a", "b"),
        ("b", "a"),
    ]


def test_a_folder_gives_the_files_of_the_split(tmp_path) -> None:
    for name in ("train-00000.jsonl", "train-00001.jsonl", "test.jsonl", ".cache/train.jsonl", "README.md"):
        write(tmp_path / name, {"prompt": name, "responses": []})
    assert [row.prompt[0].content for row in load_data(tmp_path).rows] == [
        "train-00000.jsonl",
        "train-00001.jsonl",
    ]
    assert [row.prompt[0].content for row in load_data(tmp_path, "test").rows] == ["test.jsonl"]
    assert len(load_data(tmp_path / "test.jsonl").rows) == 1
    with pytest.raises(
        DataError, match=r"no file of split 'validation'; found test.jsonl, train-00000.jsonl"
    ):
        load_data(tmp_path, "validation")
    with pytest.raises(DataError, match=r"test.jsonl: by its name not of split 'train'"):
        load_data(tmp_path / "test.jsonl", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no data files; expected names ending in .jsonl"):
        load_data(tmp_path / "empty")


def test_directions_negate_once_and_are_checked(tmp_path) -> None:
    path = write(
        tmp_path / "d.jsonl",
        {
            "prompt": "Q",
            "responses": ["a", "b"],
            "scores": {"cost": [1, None]},
            "labels": {"cost": [[0, 1, 1]]},
        },
    )
    (row,) = load_data(path, directions={"cost": "lower"}).rows
    assert (
        row.scores["cost"][0] == -1
        and math.isnan(row.scores["cost"][1])
        and row.labels == {"cost": ((0, 1, 1.0),)}
    )
    with pytest.raises(DataError, match="directions: unknown objective 'costs'; did you mean 'cost'"):
        load_data(path, directions={"costs": "lower"})
    with pytest.raises(
        DataError, match=r"directions.cost: expected higher or lower \(which is better\), got 'down'"
    ):
        load_data(path, directions={"cost": "down"})


@pytest.mark.parametrize(
    ("first", "column"),
    [
        ({"chosen": "\n\nHuman: p\n\nAssistant: a", "rejected": "\n\nHuman: p\n\nAssistant: b"}, "chosen"),
        ({"chosen": "\n\nHuman: p\n\nAssistant: a", "rejected": "\n\nHuman: p\n\nAssistant: b"}, "rejected"),
        ({"prompt": "p", "completion": "a", "label": True}, "label"),
        ({"prompt": "p", "completion": "a", "label": True}, "completion"),
        ({"prompt": "p", "completion": "a", "label": True}, "prompt"),
        ({"prompt": "p", "completion": "a"}, "completion"),
        ({"prompt": "p", "completion": "a"}, "prompt"),
        ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]}, "messages"),
        ({"prompt": "p"}, "prompt"),
    ],
)
def test_a_column_missing_in_a_later_record_is_named(first, column, tmp_path) -> None:
    later = {name: value for name, value in first.items() if name != column} | {"other": 1}
    file = write(tmp_path / "data.jsonl", first, later)
    with pytest.raises(DataError, match=rf"data\.jsonl:2: column '{column}' is missing; found .*'other'"):
        load_data({"path": str(file), "objective": "helpful"})


def test_a_malformed_line_is_named() -> None:
    with pytest.raises(DataError, match=r"not_json.jsonl:2: not valid JSON"):
        load_data(BAD / "not_json.jsonl")


# The real files


@pytest.mark.skipif(
    not Path(SHARED, "hh_rlhf").is_dir() or not SHARED, reason="PARETUNE_SHARED_DATA is not set"
)
@pytest.mark.parametrize(
    ("name", "file", "rows", "dropped"),
    [
        ("hh-rlhf", "hh_rlhf/helpful.train.jsonl.gz", 1647, 3),
        ("hh-rlhf", "hh_rlhf/helpful.test.jsonl.gz", 343, 1),
        ("hh-rlhf", "hh_rlhf/harmless.train.jsonl.gz", 1646, 4),
        ("hh-rlhf", "hh_rlhf/harmless.test.jsonl.gz", 319, 0),
        ("qa-feedback", "qa_feedback/qa_feedback.train.jsonl.gz", 375, 0),
        ("qa-feedback", "qa_feedback/qa_feedback.test.jsonl.gz", 66, 0),
        ("topical-chat", "topical_chat/topical_chat.train.jsonl.gz", 258, 0),
        ("topical-chat", "topical_chat/topical_chat.test.jsonl.gz", 30, 0),
        ("dsp-domains", "dsp_domains/dsp_domains.train.jsonl.gz", 459, 0),
        ("dsp-domains", "dsp_domains/dsp_domains.test.jsonl.gz", 96, 0),
    ],
)
def test_every_row_of_the_real_files_is_read_or_reported(name, file, rows, dropped) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = load_data(name, path=Path(SHARED, file))
    records = (
        len([response for row in dataset.rows for response in row.responses])
        if name == "topical-chat"
        else len(dataset.rows)
    )
    assert records + dropped == rows
    assert [f"unusable records left out: {dropped}" in str(w.message) for w in caught] == [True] * bool(
        dropped
    )
    if name == "topical-chat":
        assert {len(row.responses) for row in dataset.rows} == {6}


@pytest.mark.skipif(
    not Path(SHARED, "hh_rlhf").is_dir() or not SHARED, reason="PARETUNE_SHARED_DATA is not set"
)
def test_a_real_folder_has_two_objectives_and_survives_parquet(tmp_path) -> None:
    with pytest.warns(DataWarning):
        dataset = load_data("hh-rlhf", "test", path=Path(SHARED, "hh_rlhf"))
    assert dataset.objectives == ("helpful", "harmless") and len(dataset.rows) == 343 + 319 - 1
    dataset.write(tmp_path / "hh.parquet")
    assert ScoredDataset.read(tmp_path / "hh.parquet") == dataset


def test_several_sources_make_one_data_set(tmp_path) -> None:
    from paretune.runs.config import RunConfig
    from paretune.runs.prepare import load_splits

    file = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"p{n}", "responses": ["a", "b"], "scores": {"warm": [1, 2]}} for n in range(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"source": [str(file), "quickstart"], "splits": {"train": 0.8, "validation": 0.1, "test": 0.1}}
    splits = load_splits(RunConfig.model_validate({"data": data, "methods": {"dpo-soup": {}}}))
    prompts = [row.prompt[-1].content for part in splits.values() for row in part.rows]
    assert {row["prompt"] for row in rows} < set(prompts) and len(prompts) > 100
    assert "warm" in splits["train"].objectives


def test_a_split_of_a_file_without_splits_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "a"}\n')
    for split in ("nonsense", "test", "validation"):
        with pytest.raises(
            DataError, match=f"mine.jsonl: its name names no split, so that '{split}' picks nothing"
        ):
            load_data(file, split)
    assert len(load_data(file, "train").rows) == 1, "as in a folder, a file without a name is for training"


def test_a_split_is_the_folder_of_its_name(tmp_path: Path) -> None:
    for name in ("train/part", "train_extra/part", "held-out/part", "mine.hard"):
        file = tmp_path / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"prompt": name}) + "\n")
    for split, name in (
        ("train_extra", "train_extra/part"),
        ("held-out", "held-out/part"),
        ("hard", "mine.hard"),
    ):
        (row,) = load_data(tmp_path, split).rows
        assert row.prompt[0].content == name
    assert load_data(tmp_path).rows[0].prompt[0].content == "train/part"


def test_a_column_map_names_each_column_of_responses_once(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text('{"q": "a", "r": "b"}\n')
    same = ({"responses": ["r", "r"]}, {"chosen": "r", "rejected": "r", "objective": "h"})
    for named in same:
        with pytest.raises(DataError, match="the responses are the columns r, r; expected each column once"):
            load_data({"path": str(file), "prompt": "q", **named})


@pytest.mark.parametrize("key", ["system", "history", "weight", "margin"])
def test_a_column_of_a_map_that_no_record_has_is_refused(tmp_path: Path, key: str) -> None:
    """A slip in its name would leave out every system message, say; a record alone may lack it."""
    values = {"system": "be kind", "history": [["a", "b"]], "weight": 0.5, "margin": 1.0}
    record = {"q": "why", "good": "yes", "bad": "no"}
    file = tmp_path / "d.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (record, {**record, "x": values[key]})))
    mapped = {"path": str(file), "prompt": "q", "chosen": "good", "rejected": "bad", "objective": "h"}
    read = load_data({**mapped, key: "x"}).rows
    assert len(read) == 2
    file.write_text(json.dumps({**record, "beside": {"x": values[key]}}) + "\n")
    within = load_data({**mapped, key: "beside.x"}).rows[0]
    assert (within.prompt, within.weight, within.margin) == (read[1].prompt, read[1].weight, read[1].margin)
    with pytest.raises(
        DataError, match=r"d\.jsonl:1: no record has the column 'X' that the map names; found 'q'"
    ):
        load_data({**mapped, key: "X"})


def test_names_that_are_spelt_otherwise_are_told(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text('{"Prompt": "why", "Chosen": "yes", "rejected ": "no"}\n')
    told = "rename 'Chosen' to 'chosen', 'Prompt' to 'prompt', 'rejected ' to 'rejected', or map"
    with pytest.raises(DataError, match=told):
        load_data(str(file), objective="h")


def test_a_column_map_reads_inside_columns(tmp_path: Path) -> None:
    """Objects and lists by dots; what is not read inside them is listed; a column of the whole name comes first."""
    record = {
        "ask": {"text": "Hi", "lang": "en"},
        "candidates": [{"text": "a", "help": 1}, {"text": "b", "help": 2}],
        "meta": {"cost": {"a": 3, "b": 4}, "who": "x", "empty": None},
        "plain.name": "kept",
    }
    file = tmp_path / "nested.jsonl"
    file.write_text(json.dumps(record) + "\n")
    spec = {
        "path": str(file),
        "prompt": "ask.text",
        "responses": ["candidates.0.text", "candidates.1.text"],
        "scores": {
            "help": ["candidates.0.help", "candidates.1.help"],
            "cost": ["meta.cost.a", "meta.cost.b"],
        },
        "directions": {"cost": "lower"},
    }
    data = load_data(spec)
    (row,) = data.rows
    assert row.prompt[0].content == "Hi" and row.responses == ("a", "b")
    assert row.scores == {"help": (1.0, 2.0), "cost": (-3.0, -4.0)}
    assert {note.split("'")[1] for note in data.notes} == {"ask.lang", "meta.who", "plain.name"}
    assert load_data({**spec, "prompt": "plain.name"}).rows[0].prompt[0].content == "kept"
    for change, words in (
        (
            {"prompt": "ask.txt"},
            r"nested.jsonl:1: column 'ask.txt': no 'txt' in 'ask', which holds 'text', 'lang'",
        ),
        (
            {"responses": ["candidates.0.text", "candidates.2.text"]},
            r"no '2' in 'candidates', which holds 2 items",
        ),
        ({"prompt": "asked.text"}, r"column 'asked.text' is missing; found 'ask'"),
        ({"prompt": "ask.text.more"}, r"no 'more' in 'ask.text', which holds 'Hi'"),
    ):
        with pytest.raises(DataError, match=words):
            load_data({**spec, **change})


def test_a_column_map_reads_system_history_and_weight_inside_columns(tmp_path: Path) -> None:
    record = {
        "q": "why",
        "a": "yes",
        "b": "no",
        "meta": {"system": "be kind", "turns": [["hi", "hello"]], "trust": 0.5},
    }
    file = tmp_path / "inside.jsonl"
    file.write_text(
        json.dumps(record)
        + "\n"
        + json.dumps({**record, "q": "how", "meta": {"system": None, "turns": None, "trust": None}})
        + "\n"
    )
    spec = {
        "path": str(file), "prompt": "q", "chosen": "a", "rejected": "b", "objective": "h",
        "system": "meta.system", "history": "meta.turns", "weight": "meta.trust",
    }  # fmt: skip
    first, second = load_data(spec).rows
    assert [message.content for message in first.prompt] == ["be kind", "hi", "hello", "why"]
    assert first.weight == 0.5 and second.weight == 1.0
    assert [message.content for message in second.prompt] == ["how"]


def test_a_column_map_reads_inside_the_json_of_a_csv_cell(tmp_path: Path) -> None:
    file = tmp_path / "nested.csv"
    file.write_text('q,a,b,meta\nHi,x,y,"{""help"": [1, 2]}"\n')
    spec = {
        "path": str(file), "prompt": "q", "responses": ["a", "b"], "scores": {"help": ["meta.help.0", "meta.help.1"]},
    }  # fmt: skip
    assert load_data(spec).rows[0].scores == {"help": (1.0, 2.0)}


def test_a_column_map_reads_an_object_of_responses(tmp_path: Path) -> None:
    """Each record has its own names; scores go by name, whatever their order."""
    records = [
        {"q": "p", "answers": {"llama": "a", "gpt": "b"}, "help": {"gpt": 2, "llama": 1}},
        {"q": "r", "answers": {"gpt": "c", "own": "d", "llama": None}, "help": {"gpt": 5, "llama": None}},
    ]
    file = tmp_path / "named.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    spec = {"path": str(file), "prompt": "q", "responses": "answers", "scores": {"help": "help"}}
    first, second = load_data(spec).rows
    assert first.responses == ("a", "b") and first.scores["help"] == (1.0, 2.0)
    assert (
        second.responses == ("c", "d")
        and second.scores["help"][0] == 5
        and math.isnan(second.scores["help"][1])
    )
    for column, value, words in (
        (
            "help",
            {"gpt": 1, "lama": 2},
            "column 'help': a score of 'lama', which is no response; there are llama, gpt",
        ),
        ("answers", {}, "column 'answers': no response in it"),
        ("answers", 3, "expected text, a list of texts or an object of texts, got 3"),
    ):
        file.write_text(json.dumps({**records[0], column: value}) + "\n")
        with pytest.raises(DataError, match=words):
            load_data(spec)


def test_a_column_map_of_pairs(tmp_path: Path) -> None:
    """The first column always wins: no column says so."""
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"q": "Hi", "replies": {"warm": "Hello!", "short": "Hi."}}\n')
    spec = {
        "path": str(file), "prompt": "q", "chosen": "replies.warm", "rejected": "replies.short", "objective": "kind",
    }  # fmt: skip
    (row,) = load_data(spec).rows
    assert row.responses == ("Hello!", "Hi.") and row.labels == {"kind": ((0, 1, 1.0),)}
    unnamed = {key: value for key, value in spec.items() if key != "objective"}
    assert load_data(unnamed, objective="kind").rows[0].labels == row.labels
    assert load_named(unnamed, "kind")[0] == spec, "as a config then has it"
    for change, words in (
        ({"rejected": None}, "chosen and rejected: expected both"),
        ({"objective": None}, "name it, as in objective: helpful"),
        ({"rejected": "replies.warm"}, "expected each column once"),
    ):
        changed = {key: value for key, value in {**spec, **change}.items() if value is not None}
        with pytest.raises(DataError, match=words):
            load_data(changed)


def test_an_objective_may_name_one_of_those_that_the_data_name(tmp_path: Path) -> None:
    """As ``score fit DATA --objective good`` does, where the data have other objectives too."""
    file = tmp_path / "d.jsonl"
    scores = {"short": [1, 2], "good": [2, 1]}
    file.write_text(json.dumps({"prompt": "why", "responses": ["a", "b"], "scores": scores}) + "\n")
    assert load_data(str(file), objective="good").objectives == ("short", "good")
    with pytest.raises(
        DataError, match=r"these data name their objectives \(short, good\), so objective=warm"
    ):
        load_data(str(file), objective="warm")
