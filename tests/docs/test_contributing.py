"""Every example of CONTRIBUTING, added in exactly the place that it names."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from paretune.data import known
from paretune.data.rows import Message
from paretune.scoring import neural, rules, scorer

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
PROMPT = (Message("user", "good"),)


def example(name: str, home: types.ModuleType) -> dict[str, object]:
    """Run an example as if it stood at the end of ``home``, and return the names there."""
    (code,) = re.findall(rf"<!-- example: {name} -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    names = dict(vars(home))
    exec(compile("from __future__ import annotations\n" + code, f"CONTRIBUTING.md: {name}", "exec"), names)
    return names


def test_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rules.RULES, "questions", example("rule", rules)["rule_questions"])
    asks = rules.RULES["questions"]("curious")
    assert list(asks([PROMPT] * 3, ["Why? How?", "Because.", ""], [False] * 3)) == [2, 0, 0]
    assert list(rules.RULES["questions"]("curt", direction="lower")([PROMPT], ["Why?"], [False])) == [-1]


def test_a_scorer_with_a_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from paretune.generation.generate import response_logps
    from paretune.models.language_model import load
    from support.world import write_model

    folder = write_model(tmp_path / "model")
    monkeypatch.setitem(scorer.KINDS, "fluency", example("scorer", neural)["fluency"])
    natural = scorer.KINDS["fluency"]("natural", str(folder))
    scores = natural([PROMPT] * 2, ["kind", "red sun moon"], [False, True])

    lm = load(str(folder))
    ids = lm.encode_response("red sun moon", truncated=True)
    (total,) = response_logps(lm, [(lm.encode_prompt(PROMPT), [ids])])
    np.testing.assert_allclose(scores[1], float(total[0]) / len(ids), rtol=1e-5)
    assert (
        natural.fingerprint
        != scorer.KINDS["fluency"]("natural", str(write_model(tmp_path / "other", seed=1))).fingerprint
    )


@pytest.mark.slow
def test_a_method_and_a_rule_added_so_are_planned_run_and_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One file and one line each: nothing else has to be told of them."""
    from dataclasses import replace

    from paretune import methods
    from paretune.runs.schema import config_schema
    from support.command import call
    from support.world import make_dataset, write_model

    module = types.ModuleType("paretune.methods.my_soup")
    vars(module).update(example("method", module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(methods.METHODS.modules, "my-soup", "my_soup")
    monkeypatch.setitem(rules.RULES, "questions", example("rule", rules)["rule_questions"])
    data = make_dataset(24)
    rows = tuple(replace(row, responses=(*row.responses[:-1], row.responses[-1] + "?")) for row in data.rows)
    replace(data, rows=rows).write(tmp_path / "data.jsonl")
    config = tmp_path / "config.yaml"
    config.write_text(f"""
folder: {tmp_path / "run"}
model: {write_model(tmp_path / "model")}
data: {{source: {tmp_path / "data.jsonl"}}}
objectives: [short, curious]
score:
  - {{objective: short, rule: length, unit: words, direction: lower}}
  - {{objective: curious, rule: questions}}
methods: {{my-soup: {{beta: 0.2, train: {{steps: 1}}}}}}
preferences: 3
train: {{steps: 2, batch_pairs: 2}}
sampling: {{max_new_tokens: 4, batch_size: 8}}
evaluate: {{prompts: 2, resamples: 20}}
""")
    for words in (["plan", config], ["run", config], ["methods"]):
        code, out, err = call(monkeypatch, capsys, *words)
        assert code == 0 and "Traceback" not in err, err
    assert "my-soup" in out and (tmp_path / "run/policies/my-soup").is_dir()
    schema = config_schema()
    assert {"method-my-soup", "rule-questions"} <= set(schema["$defs"])


def test_a_public_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from paretune.data import load

    monkeypatch.setitem(known.KNOWN, "polite-pairs", example("data", known)["POLITE_PAIRS"])
    records = [
        {"question": "Tea?", "first": "Yes, please.", "second": "Give.", "winner": 0},
        {"question": "Tea?", "first": "No.", "second": "No, thank you.", "winner": 1},
        {"question": "Tea?", "first": "", "second": "No.", "winner": 1},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    read = getattr(load, "load_data", None) or load.load
    with pytest.warns(load.DataWarning, match="empty response"):
        dataset = read("polite-pairs", path=tmp_path)
    assert [row.labels["polite"] for row in dataset.rows] == [((0, 1, 1.0),), ((0, 1, -1.0),)]


def test_a_scalarisation(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from paretune.core import scalarise
    from paretune.core.scalarise import Scalarisation
    from paretune.training.scalarise import aggregate

    soft_worst = example("aggregation", scalarise)["soft_worst"]
    (line,) = re.findall(r'`"soft-worst": (Scalarisation\(.*\)),`', TEXT)
    made = eval(line, {"soft_worst": soft_worst, "Scalarisation": Scalarisation})
    monkeypatch.setitem(scalarise.SCALARISATIONS, "soft-worst", made)  # type: ignore[misc]
    losses, weights = torch.tensor([3.0, 1.0]), torch.tensor([0.25, 0.75])
    value = aggregate(losses, weights, "soft-worst", torch.zeros(2))  # type: ignore[arg-type]
    assert float(value) == pytest.approx(3.0**0.5) and float(losses @ weights) < float(value) < 3


def test_the_aggregations_of_configs_are_those_of_the_dict() -> None:
    from typing import get_args

    from paretune.core.scalarise import SCALARISATIONS, Aggregation

    assert set(get_args(Aggregation)) == set(SCALARISATIONS)


def test_an_indicator(monkeypatch: pytest.MonkeyPatch) -> None:
    from paretune.fronts import indicators
    from paretune.fronts.front import Front

    monkeypatch.setitem(indicators.INDICATORS, "spread", example("indicator", indicators)["SPREAD"])
    scores = np.broadcast_to(np.array([[0.0, 4.0], [3.0, 0.0]])[:, None], (2, 3, 2)).copy()
    front = Front("mine", ("a", "b"), np.eye(2), scores, ("p", "q", "r"))
    assert front.summary(np.array([-1.0, -1.0]), resamples=10)["spread"].value == 5


def test_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    from paretune import methods
    from paretune.methods.base import DPOConfig, Method

    module = types.ModuleType("paretune.methods.my_soup")
    vars(module).update(example("method", module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(methods.METHODS.modules, "my-soup", "my_soup")
    method = methods.METHODS["my-soup"]
    assert isinstance(method, Method) and method.card.runs == "M"
    assert method.settings({"beta": 0.2}, "methods.my-soup") == DPOConfig(beta=0.2)
