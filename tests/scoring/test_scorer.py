from __future__ import annotations

import math
import multiprocessing
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.core.errors import ConfigError, ModelError, ScoreError
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row
from paretune.scoring import encoder as encode
from paretune.scoring import rules
from paretune.scoring.cache import ScoreCache
from paretune.scoring.function_scorer import FunctionScorer, from_function
from paretune.scoring.rules import (
    READABILITY_FORMULAS,
    RULES,
    rule_length,
    rule_readability,
    rule_regex,
    rule_sentiment,
    split_sentences,
)
from paretune.scoring.scorer import (
    KINDS,
    build_scorer,
    score_dataset,
    score_texts,
)
from paretune.scoring.standardise import Standardisation
from support.reward_models import SMALL, bert, llama, sequence_classifier, tokenizer

PROMPT = (Message("user", "How are you?"),)


def score(scorer, *responses):
    return scorer([PROMPT] * len(responses), responses, [False] * len(responses)).tolist()


# Rules


def test_length_by_hand():
    text = "One two, three. Four!"
    assert score(rule_length("concise"), text) == [-4.0]
    assert score(rule_length("concise", per=8), text) == [-0.5]
    assert score(rule_length("concise", unit="characters"), text) == [-21.0]
    assert score(rule_length("detailed", unit="sentences", direction="higher"), text) == [2.0]


@given(st.text(max_size=80), st.lists(st.sampled_from(["a", "really", "good"]), min_size=1))
def test_more_words_are_less_concise(text, words):
    before, after = score(rule_length("concise"), text, text + " " + " ".join(words))
    assert after == before - len(words)


@pytest.mark.parametrize(
    "make",
    [
        lambda d: rule_length("x", unit="characters", direction=d),
        lambda d: rule_sentiment("x", how="sum", direction=d),
        lambda d: rule_readability("x", formula="lix", direction=d),
        lambda d: rule_regex("x", "o", how="count", direction=d),
    ],
)
def test_direction_negates(make):
    texts = ["What a lovely, wonderful evening. Thank you so much!", "No. This is horrible and too long."]
    higher, lower = score(make("higher"), *texts), score(make("lower"), *texts)
    assert higher == [-x for x in lower]
    assert any(higher)
    assert make("higher").fingerprint != make("lower").fingerprint


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It costs 1.5 euros. Fine.", ["It costs 1.5 euros.", "Fine."]),
        ('He said "go." Then left.', ['He said "go."', "Then left."]),
        ("Steps:\n1. Wash it.\n2) Dry it\n- Enjoy", ["Steps:", "Wash it.", "Dry it", "Enjoy"]),
        ("Great! :) Bye", ["Great!", ":) Bye"]),
        ("Great! :)", ["Great! :)"]),
    ],
)
def test_split_sentences(text, sentences):
    assert split_sentences(text) == sentences


def test_sentiment_sums_and_averages_the_sentences():
    # VADER: "good" has valence 1.9, so its compound is 1.9 / sqrt(1.9^2 + 15) = 0.4404; a neutral one has 0.
    good = 0.4404
    text = "This is good. It is a table."
    assert score(rule_sentiment("warm", how="sum"), text) == pytest.approx([good])
    assert score(rule_sentiment("warm", how="mean"), text) == pytest.approx([good / 2])
    assert score(rule_sentiment("warm", how="compound"), "This is good.") == pytest.approx([good])
    assert score(rule_sentiment("warm", how="sum"), "This is good. " * 5)[0] == pytest.approx(5 * good)
    assert score(rule_sentiment("warm"), "I hate this.")[0] < 0
    assert score(rule_sentiment("warm"), "") == [0.0]


def test_readability_by_hand():
    # 9 words in 2 sentences, 2 of them longer than 6 letters: LIX = 9/2 + 100 * 2/9; RIX = 2/2.
    text = "We saw beautiful birds. They were singing all day."
    assert score(rule_readability("easy", formula="lix"), text) == pytest.approx([-(9 / 2 + 200 / 9)])
    assert score(rule_readability("hard", formula="rix", direction="higher"), text) == pytest.approx([1.0])


@pytest.mark.parametrize("formula", READABILITY_FORMULAS)
def test_readability_needs_no_download_and_prefers_easy_text(formula, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk, "download", lambda *a, **k: pytest.fail("a download was tried"))
    easy = "The cat sat. It was hot. The dog ran off."
    hard = (
        "Notwithstanding considerable institutional opposition, contemporaneous administrative "
        "restructuring fundamentally transformed intergovernmental responsibilities and expectations."
    )
    easy_score, hard_score = score(rule_readability("easy", formula=formula), easy, hard)
    assert easy_score > hard_score


def test_readability_without_words_is_an_error_or_the_stated_score():
    with pytest.raises(ScoreError, match=r"row 1: objective 'easy'.*no word.*'empty'"):
        score(rule_readability("easy"), "A word.", "...")
    assert score(rule_readability("easy", empty=-30), "...") == [-30.0]


def test_regex_by_hand():
    text = "Sorry, sorry, I am sorry."
    assert score(rule_regex("x", "sorry", how="count"), text) == [2.0]
    assert score(rule_regex("x", "(?i)sorry", how="count", direction="lower"), text) == [-3.0]
    assert score(rule_regex("x", "(?i)sorry"), text, "no") == [1.0, 0.0]


def test_an_expression_that_would_never_end_is_stopped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rules, "REGEX_SECONDS", 0.2)
    with pytest.raises(
        ScoreError, match=r"row 1: objective 'x': the pattern '.*' was not done .* of 61 char"
    ):
        score(rule_regex("x", r"(?:a|aa|aaa)+\d(?:b|bb)"), "aa1b", "a" * 60 + "!")


# Python functions

FUNCTIONS = """
def words(prompts, responses):
    assert prompts[0][0] == {"role": "user", "content": "How are you?"}
    return [len(r.split()) for r in responses]

def picky(prompts, responses):
    if "bad" in responses:
        raise RuntimeError("cannot judge this")
    return [1.0] * len(responses)

def short(prompts, responses):
    return [1.0]

def nan(prompts, responses):
    return [float("nan") if r == "bad" else 1.0 for r in responses]

def text(prompts, responses):
    return ["good" for _ in responses]

number = 3
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "my_score_functions.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def function_scorer(name):
    return build_scorer({"objective": "polite", "function": f"my_score_functions:{name}"})


def test_function_is_called_with_messages(functions):
    assert score(function_scorer("words"), "a b", "c") == [2.0, 1.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("picky", r"b.jsonl:2, response 1: .*my_score_functions:picky.*RuntimeError: cannot judge this"),
        ("nan", r"b.jsonl:2, response 1: .*my_score_functions:nan.*nan, expected a finite number"),
        ("short", r"my_score_functions:short.*shape \(1,\) for 4 responses"),
        ("text", r"my_score_functions:text.*not numbers"),
    ],
)
def test_a_failing_function_names_itself_and_the_row_and_scores_nothing(functions, tmp_path, name, message):
    rows = (
        Row(PROMPT, ("fine", "good"), source="a.jsonl:1"),
        Row((Message("user", "Second?"),), ("fine", "bad"), source="b.jsonl:2"),
    )
    cache = ScoreCache(tmp_path / "scores.sqlite")
    with pytest.raises(ScoreError, match=message):
        score_dataset(ScoredDataset((), rows), [function_scorer(name)], cache)
    assert len(cache) == 0


def test_editing_the_function_changes_its_fingerprint(functions):
    before = function_scorer("words").fingerprint
    assert function_scorer("words").fingerprint == before
    (functions / "my_score_functions.py").write_text(
        FUNCTIONS.replace("len(r.split())", "2 * len(r.split())")
    )
    assert function_scorer("words").fingerprint != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_score_functions:wrods", "did you mean 'words'"),
        ("my_score_functions:number", "no function 'number'"),
        ("no_such_module_here:f", "cannot be imported"),
        ("my_score_functions", "expected module:function"),
    ],
)
def test_a_function_that_is_not_there(functions, name, message):
    with pytest.raises(ConfigError, match=message):
        build_scorer({"objective": "polite", "function": name})


# Building from a configuration


def test_build_equals_the_constructor():
    built = build_scorer({"objective": "concise", "rule": "length", "unit": "words", "per": 10})
    assert built.objective == "concise"
    assert built.fingerprint == rule_length("concise", per=10).fingerprint
    assert score(built, "a b") == [-0.2]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"objective": "c", "rule": "length", "unti": "words"}, "unknown key 'unti': did you mean 'unit'"),
        ({"objective": "c", "rule": "lenght"}, "did you mean 'length'"),
        ({"objective": "c", "rule": "length", "unit": "word"}, "did you mean 'words'"),
        ({"objective": "c", "rule": "length", "direction": "up"}, "expected one of: higher, lower"),
        ({"objective": "c", "rule": "length", "per": 0}, "expected a positive number"),
        (
            {"objective": "c", "rule": "readability", "formula": "flesch_reading_ease"},
            "expected one of: auto",
        ),
        ({"objective": "c", "rule": "regex"}, "needs the key 'pattern'"),
        ({"objective": "c", "rule": "regex", "pattern": "("}, "not a regular expression"),
        (
            {"objective": "c"},
            "exactly one of rule, model, head, reward, prototype, implicit, function, endpoint, judge; got none",
        ),
        ({"objective": "c", "rule": "length", "model": "m"}, "got rule, model"),
        ({"rule": "length"}, "expected 'objective'"),
        ({"objective": "c", "model": ""}, "expected a name"),
        ({"objective": "c", "model": "m", "batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"objective": "c", "model": "m", "index": -1}, "index must be at least 0, got -1"),
    ],
)
def test_build_refuses(spec, message):
    with pytest.raises(ConfigError, match=message):
        build_scorer(spec)


def test_a_rule_and_a_scorer_are_one_function_and_one_line(monkeypatch):
    """As CONTRIBUTING tells: a function in rules.py or neural.py, and a line in ``RULES`` or ``KINDS``."""

    def rule_shout(objective: str, per: float = 1.0) -> FunctionScorer:
        return from_function(
            objective, f"shout {per}", lambda _, texts, cut: [t.count("!") / per for t in texts]
        )

    def two_letters(objective: str, folder: str, offset: float = 0.0) -> FunctionScorer:
        return from_function(
            objective, f"two {folder}", lambda _, texts, cut: [offset + len(t[:2]) for t in texts]
        )

    monkeypatch.setitem(RULES, "shout", rule_shout)
    monkeypatch.setitem(KINDS, "letters", two_letters)
    specs = [{"objective": "loud", "rule": "shout", "per": 2}, {"objective": "long", "letters": "a/folder"}]
    data = ScoredDataset((), (Row((PROMPT[0],), ("Hi! You!", "x")),))
    scored = score_dataset(data, [build_scorer(spec) for spec in specs])
    assert scored.rows[0].scores == {"loud": (1.0, 0.0), "long": (2.0, 1.0)}
    with pytest.raises(ConfigError, match="did you mean 'shout'"):
        build_scorer({"objective": "loud", "rule": "shuot"})
    with pytest.raises(ConfigError, match="did you mean 'offset'"):
        build_scorer({"objective": "long", "letters": "a/folder", "ofset": 1})


# Scoring and the cache


def counting():
    calls = []

    def function(prompts, responses, truncated):
        calls.append(list(responses))
        return [float(len(r)) for r in responses]

    return from_function("length", "counting-1", function), calls


def test_equal_texts_are_scored_once_and_the_cache_is_used(tmp_path):
    scorer, calls = counting()
    cache = ScoreCache(tmp_path / "scores.sqlite")
    prompts = [PROMPT] * 3
    assert score_texts(scorer, prompts, ["aa", "b", "aa"], cache=cache).tolist() == [2.0, 1.0, 2.0]
    assert calls == [["aa", "b"]]
    again = score_texts(scorer, prompts, ["b", "ccc", "aa"], cache=ScoreCache(cache.path))
    assert again.tolist() == [1.0, 3.0, 2.0]
    assert calls[1:] == [["ccc"]]


def test_the_cache_tells_scorer_prompt_and_truncation_apart(tmp_path):
    cache = ScoreCache(tmp_path / "scores.sqlite")
    scorer, calls = counting()
    score_texts(scorer, [PROMPT], ["aa"], cache=cache)
    score_texts(scorer, [PROMPT], ["aa"], [True], cache=cache)
    score_texts(scorer, [(Message("user", "Other"),)], ["aa"], cache=cache)
    other = from_function("length", "counting-2", lambda p, r, t: [7.0] * len(r))
    assert score_texts(other, [PROMPT], ["aa"], cache=cache).tolist() == [7.0]
    assert len(calls) == 3


def test_scores_finished_before_a_failure_are_kept(tmp_path):
    def function(prompts, responses, truncated):
        if "last" in responses:
            raise ScoreError("out of luck")
        return [1.0] * len(responses)

    cache = ScoreCache(tmp_path / "scores.sqlite")
    responses = [str(i) for i in range(512)] + ["last"]
    with pytest.raises(ScoreError, match="out of luck"):
        score_texts(from_function("x", "f", function), [PROMPT] * 513, responses, cache=cache)
    assert len(cache) == 512


@settings(max_examples=20, deadline=None)
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_cached_scores_are_exact(tmp_path_factory, value):
    cache = ScoreCache(tmp_path_factory.mktemp("cache") / "s.sqlite")
    cache.put({"k": value})
    assert cache.get(["k", "other"]) == {"k": value}


def test_more_keys_than_one_query_holds(tmp_path):
    cache = ScoreCache(tmp_path / "scores.sqlite")
    cache.put({str(i): float(i) for i in range(1700)})
    assert cache.get([str(i) for i in range(1700)]) == {str(i): float(i) for i in range(1700)}


def _fill(path, start):
    cache = ScoreCache(path)
    for i in range(start, start + 20):
        cache.put({str(i): float(i)})


def test_several_processes_write_one_cache(tmp_path):
    path = tmp_path / "scores.sqlite"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(path, 20 * i)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(ScoreCache(path)) == 60


def test_a_damaged_cache_names_itself_and_the_cure(tmp_path):
    path = tmp_path / "scores.sqlite"
    path.write_bytes(b"this is not a data base at all, only some text" * 20)
    with pytest.raises(ScoreError, match=r"scores.sqlite: the score cache is damaged.*delete the file"):
        ScoreCache(path)


def test_a_foreign_data_base_is_left_alone(tmp_path):
    path = tmp_path / "votes.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE votes (id INTEGER)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ScoreError, match=r"votes.sqlite: not a score cache"):
        ScoreCache(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("values", [[math.nan, 1.0], [math.inf, 1.0], [1.0], [[1.0], [2.0]], [None, 1.0]])
def test_no_failure_becomes_a_score(values):
    scorer = from_function("x", "f", lambda p, r, t: values)
    with pytest.raises(ScoreError, match="objective 'x'"):
        score_texts(scorer, [PROMPT] * 2, ["a", "b"])


def test_score_dataset_keeps_raw_scores_in_place():
    rows = (
        Row(PROMPT, ("a b c", "d"), labels={"warm": ((0, 1, 1.0),)}, source="f:1"),
        Row((Message("user", "Alone"),), (), source="f:2"),
        Row((Message("user", "Two"),), ("e f",), source="f:3"),
    )
    scorers = [rule_length("concise"), rule_sentiment("warm")]
    scored = score_dataset(ScoredDataset(("warm",), rows), scorers)
    assert scored.objectives == ("warm", "concise")
    assert [scored.matrix(r)[:, 1].tolist() for r in scored.rows] == [[-3.0, -1.0], [], [-2.0]]
    assert scored.rows[0].labels == rows[0].labels
    with pytest.raises(ScoreError, match="expected one per objective"):
        score_dataset(scored, [scorers[0], scorers[0]])


def test_counts_that_differ_are_refused():
    with pytest.raises(ScoreError, match="1 prompts, 2 responses"):
        score_texts(rule_length("x"), [PROMPT], ["a", "b"])


# Standardisation


def reference(*scores):
    rows = [
        Row((Message("user", str(i)),), ("a", "b"), scores={"x": s[0], "y": s[1]}, source=f"f:{i}")
        for i, s in enumerate(scores)
    ]
    return ScoredDataset(("x", "y"), tuple(rows))


def test_standardisation_by_hand():
    fixed = Standardisation.of(reference(((1.0, 3.0), (0.0, 0.0)), ((1.0, 3.0), (10.0, 10.0))))
    assert fixed.mean.tolist() == [2.0, 5.0]
    assert fixed.std.tolist() == [1.0, 5.0]
    assert fixed.apply([[4.0, 0.0], [math.nan, 5.0]])[0].tolist() == [2.0, -1.0]
    assert np.isnan(fixed.apply([math.nan, 5.0])).tolist() == [True, False]
    restored = Standardisation.from_dict(fixed.to_dict())
    assert restored.to_dict() == fixed.to_dict()


def test_standardisation_refuses():
    with pytest.raises(ScoreError, match=r"f:1, response 1: no score for 'y'"):
        Standardisation.of(reference(((1.0, 3.0), (0.0, 1.0)), ((1.0, 3.0), (1.0, math.nan))))
    with pytest.raises(ScoreError, match=r"objective 'x': all 4 reference responses score 0\.1"):
        Standardisation.of(reference(((0.1, 0.1), (0.0, 1.0)), ((0.1, 0.1), (1.0, 2.0))))
    with pytest.raises(ScoreError, match="no responses"):
        Standardisation.of(ScoredDataset(("x",), (Row(PROMPT, ()),)))
    with pytest.raises(ScoreError, match=r"expected \[..., 2\]"):
        Standardisation.of(reference(((1.0, 3.0), (0.0, 1.0)))).apply([1.0])
    with pytest.raises(ConfigError, match="positive std"):
        Standardisation.from_dict({"objectives": ["x"], "mean": [0.0], "std": [0.0]})


# Reward models

TEXTS = ["fine", "fine thanks and you ?", "the cat", "what about the dog and the cat and the dog", "thanks"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "llama": llama(folder / "llama", pad=True),
        "llama-left": llama(folder / "llama-left", pad=True, side="left"),
        "llama-no-pad": llama(folder / "llama-no-pad", pad=False),
        "bert": bert(folder / "bert"),
    }


def direct(folder, response, index):
    """The score of one text by transformers alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    made = AutoTokenizer.from_pretrained(folder)
    if made.chat_template:
        ids = made(f"User How are you? [SEP] Assistant {response} [SEP] ", add_special_tokens=False)
    else:
        ids = made("How are you?", response)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    names = ["input_ids", "attention_mask"] + ([] if made.chat_template else ["token_type_ids"])
    with torch.inference_mode():
        return model(**{k: torch.tensor([ids[k]]) for k in names if k in ids}).logits[0, index].item()


@pytest.mark.parametrize("name", ["llama", "llama-left", "llama-no-pad", "bert"])
def test_rewards_do_not_depend_on_batches_or_order(models, name):
    index = 0 if name == "bert" else 1
    expected = [direct(models[name], text, index) for text in TEXTS]
    assert np.ptp(expected) > 1e-2
    for batch_size in (1, 2, 5):
        scorer = sequence_classifier("good", str(models[name]), index=index, batch_size=batch_size)
        assert score(scorer, *TEXTS) == pytest.approx(expected, abs=1e-5)
        assert score(scorer, *TEXTS[::-1]) == pytest.approx(expected[::-1], abs=1e-5)


def test_reward_direction_index_and_fingerprint(models):
    folder = str(models["llama"])
    first, second = (sequence_classifier("good", folder, index=i) for i in (0, 1))
    lower = build_scorer({"objective": "good", "model": folder, "direction": "lower"})
    assert score(lower, *TEXTS) == [-s for s in score(first, *TEXTS)]
    assert len({first.fingerprint, second.fingerprint, lower.fingerprint}) == 3
    with pytest.raises(ModelError, match=r"index 2: .* has 2 outputs, expected 0\.\.1"):
        sequence_classifier("good", folder, index=2)


def test_a_long_dialogue_loses_its_beginning(models, caplog):
    scorer = sequence_classifier("good", str(models["llama"]), max_length=4)
    long = "what about the dog and the cat"
    other = "fine fine fine fine fine and the cat"
    same = score(scorer, long, other)
    assert same[0] == pytest.approx(same[1], abs=1e-6)  # the last 4 tokens are equal
    assert "limit of 4 tokens" in caplog.text
    assert score(scorer, long)[0] != pytest.approx(score(scorer, long + " dog")[0], abs=1e-4)
    # BERT has 24 positions: a longer text is cut, not a crash.
    assert len(score(sequence_classifier("good", str(models["bert"])), "the cat and " * 30)) == 1


def test_the_model_is_loaded_only_when_scores_are_missing(models, tmp_path, monkeypatch):
    cache = ScoreCache(tmp_path / "scores.sqlite")
    scorer = sequence_classifier("good", str(models["bert"]))
    first = score_texts(scorer, [PROMPT] * len(TEXTS), TEXTS, cache=cache)
    monkeypatch.setattr(encode, "load_classifier", lambda *a: pytest.fail("loaded"))
    again = sequence_classifier("good", str(models["bert"]))
    assert score_texts(again, [PROMPT] * len(TEXTS), TEXTS, cache=cache).tolist() == first.tolist()


def test_models_that_cannot_be_reward_models(models, tmp_path, monkeypatch):
    import torch
    from transformers import BertConfig, BertModel

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    headless = tmp_path / "headless"
    BertModel(BertConfig(**SMALL)).save_pretrained(headless)
    tokenizer(headless, pad_token="[PAD]")
    with pytest.raises(ModelError, match=r"classifier\.\w+.* would be random numbers"):
        score(sequence_classifier("good", str(headless)), "fine")

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((headless / "config.json").read_text())
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        sequence_classifier("good", str(pickled))

    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        sequence_classifier("good", str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="no such file or folder, not in the hub's cache"):
        sequence_classifier("good", str(Path("no") / "such-model-anywhere"))


def test_below_enough_words_shorter_is_no_better() -> None:
    scorer = build_scorer({"objective": "concise", "rule": "length", "per": 10, "enough": 4})
    texts = ["Toast.", "one two three four", "one two three four five"]
    scores = scorer([PROMPT] * 3, texts, [False] * 3)
    assert scores.tolist() == pytest.approx([-0.4, -0.4, -0.5])
    assert (
        scorer.fingerprint != build_scorer({"objective": "concise", "rule": "length", "per": 10}).fingerprint
    )
    with pytest.raises(ConfigError, match="enough: -1"):
        build_scorer({"objective": "concise", "rule": "length", "enough": -1})
    with pytest.raises(ConfigError, match="is for direction lower"):
        build_scorer({"objective": "long", "rule": "length", "direction": "higher", "enough": 3})


def test_below_the_least_words_each_missing_one_costs_as_much_as_one_too_many() -> None:
    scorer = build_scorer({"objective": "concise", "rule": "length", "per": 10, "enough": 6, "least": 4})
    counts = [0, 1, 3, 4, 5, 6, 7, 16]
    texts = [" ".join(["word"] * count) for count in counts]
    scores = scorer([PROMPT] * len(texts), texts, [False] * len(texts))
    assert scores.tolist() == pytest.approx([-1.0, -0.9, -0.7, -0.6, -0.6, -0.6, -0.7, -1.6])
    without = build_scorer({"objective": "concise", "rule": "length", "per": 10, "enough": 6})
    assert without([PROMPT], ["word"], [False]).tolist() == pytest.approx([-0.6])
    assert scorer.fingerprint != without.fingerprint
    for wrong in (-1, 7, True, "4", float("nan")):
        with pytest.raises(ConfigError, match=r"least: .*expected a count from 0 to enough \(6\)"):
            build_scorer({"objective": "concise", "rule": "length", "enough": 6, "least": wrong})
    with pytest.raises(ConfigError, match="least: 4"):
        build_scorer({"objective": "long", "rule": "length", "direction": "higher", "least": 4})


def test_sentiment_beyond_enough_gains_nothing() -> None:
    kind, kinder, neutral = "That is good.", "THAT IS GREAT, WONDERFUL AND LOVELY!!!", "The bus is red."
    plain = build_scorer({"objective": "warm", "rule": "sentiment"})
    capped = build_scorer({"objective": "warm", "rule": "sentiment", "enough": 0.4})
    low, high = plain([PROMPT] * 2, [kind, kinder], [False] * 2)
    assert 0.4 < low < high  # so both reach what is enough
    texts = [kind, kinder, neutral, f"{kinder} {neutral}", "That is bad."]
    scores = capped([PROMPT] * len(texts), texts, [False] * len(texts)).tolist()
    assert scores[:4] == pytest.approx([0.4, 0.4, 0.0, 0.2])
    assert scores[4] == pytest.approx(plain([PROMPT], ["That is bad."], [False])[0])  # below 0 as it was
    total = build_scorer({"objective": "warm", "rule": "sentiment", "how": "sum", "enough": 0.4})
    assert total([PROMPT], [f"{kinder} {kind} {neutral}"], [False])[0] == pytest.approx(0.8)
    whole = build_scorer({"objective": "warm", "rule": "sentiment", "how": "compound", "enough": 0.4})
    assert whole([PROMPT], [kinder], [False])[0] == pytest.approx(0.4)
    cold = build_scorer({"objective": "cold", "rule": "sentiment", "direction": "lower", "enough": 0.4})
    scores = cold([PROMPT] * 2, ["That is terrible and awful.", kind], [False] * 2)
    assert scores.tolist() == pytest.approx([0.4, -low])
    assert len({scorer.fingerprint for scorer in (plain, capped, total, whole, cold)}) == 5
    assert (
        plain.fingerprint == build_scorer({"objective": "warm", "rule": "sentiment", "enough": 1}).fingerprint
    )
    for wrong in (0, 1.1, -1, True, "1", float("nan")):
        with pytest.raises(ConfigError, match=r"enough: .*above 0 and at most 1"):
            build_scorer({"objective": "warm", "rule": "sentiment", "enough": wrong})


# Thought


def test_thought_is_not_scored_unless_the_scorer_wants_it(tmp_path):
    spec = {"objective": "short", "rule": "length", "unit": "words", "direction": "higher"}
    answer, whole = build_scorer(spec), build_scorer({**spec, "thinking": True})
    texts = ["<think>let me see</think>two words", "two words", "<think>let me", "see\n</think>\n\ntwo words"]
    cache = ScoreCache(tmp_path / "scores.sqlite")
    for _ in range(2):  # the second time from the cache
        assert score_texts(answer, [PROMPT] * 4, texts, cache=cache).tolist() == [2, 2, 0, 2]
    assert score_texts(whole, [PROMPT] * 4, texts, cache=cache).tolist() == [4, 2, 2, 4]
    assert answer.fingerprint != whole.fingerprint
    assert answer.fingerprint == build_scorer({**spec, "thinking": False}).fingerprint
    assert len(cache) == 2 + 4, "the same answer behind another thought is scored once"


def test_thinking_is_true_or_false():
    spec = {"objective": "short", "rule": "length", "thinking": "yes"}
    with pytest.raises(ConfigError, match="scorer of 'short': thinking: 'yes': expected true or false"):
        build_scorer(spec)
    with pytest.raises(ConfigError, match=r"unknown key 'thinkin'.*'thinking'"):
        build_scorer({"objective": "short", "rule": "length", "thinkin": True})
