"""The record of a run: its schema, what 0.1 wrote, and files that are none."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from paretune.core.errors import ParetuneError
from paretune.fronts.front import Interval
from paretune.fronts.record import FORMAT, FrontRecord
from paretune.fronts.surface import Surface
from support import records

HERE = Path(__file__).parent
OLD = HERE / "records" / "front-0.1.json"
DIGESTS = {
    2: "cf2538609f482f3d4efefdd8fe59e1788ef188972ff68c9cc9b9463328fc6db5",
    3: "a33cee40493a2503d25f1240f8cac8603f74e742495909eefa478fd7e644a167",
    4: "18150e7ef50dfdd4bbcf4406b9e11333e33a6248c7da7ce744bf1e04cc1204c9",
    5: "4b5511a44f5586c732e8d8d8188cd3438813fe87e908192744b2dc0fabbe4399",
    6: "4a61d1f269c0919c91cb8e10673a6ddd7c4bd40bf5e6afe812dd0b0b8bd622e4",
    7: "b87c3435b8a95fa17918e0c6ce9b62c2c73c1307cb31349ef1a6e95c737f394c",
    8: "b0162e25f3daf36fb32e5bcac6ac0018c36b935937a11ff1f4fe0b589a48237b",
}
"""Format -> SHA-256 of its committed schema. A published schema never changes: the types changed, so raise FORMAT, commit the new
schema beside the old ones and add its digest here."""


@pytest.fixture
def facts():
    """A record of two policies that uses what is optional too."""
    point = records.point({"a": 1.0, "b": 0.0}, [1.0, 2.0], [None, 1.5], [None, 2.5], responses=["Yes."])
    other = {**point, "preference": {"a": 0.25, "b": 0.75}}
    plain = records.policy("plain", [point, other], title="Plain", extrapolations=[other])
    cost = {"adapters": 2, "passes": 1}
    rich = records.policy(
        "rich", [point], anchored=True, cost=cost, steerability={"layer.0": None, "layer.1": 0.5}
    )
    movement = {
        "moved": {"a": records.figure(0.5)},
        "along": records.figure(0.5),
        "across": records.figure(0.0),
    }
    point["movement"] = movement
    test = records.test("plain", "base", 0.5, "plain above")
    facts = records.record(["a", "b"], [plain, rich], comparisons=[test], sampling={"top_p": 0.9})
    facts |= {
        "uncompared": [{"first": "rich", "second": "base", "reason": "none"}],
        "cautions": ["Few prompts."],
    }
    return json.loads(json.dumps(facts))  # nothing is shared


def structure(schema):
    """Return a JSON schema without its words."""
    if isinstance(schema, list):
        return [structure(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    words = {key for key in ("title", "description") if isinstance(schema.get(key), str)}
    return {key: structure(value) for key, value in schema.items() if key not in words}


def test_the_schema_of_a_format_never_changes():
    file = HERE / "schemas" / f"front-{FORMAT}.json"
    assert json.loads(file.read_text()) == structure(FrontRecord.model_json_schema())
    for number, digest in DIGESTS.items():
        raw = (HERE / "schemas" / f"front-{number}.json").read_bytes()
        assert hashlib.sha256(raw).hexdigest() == digest, f"the schema of format {number} is published"
    assert FORMAT in DIGESTS


def test_a_record_is_written_as_it_was_read(facts, tmp_path):
    record = FrontRecord.parse(facts)
    assert math.isnan(record.policies[0].points[0].low[0])
    assert record.policies[0].points[0].score(1) == Interval(2.0, 1.5, 2.5)
    assert [policy.label for policy in record.policies] == ["Plain", "rich"]
    record.write(tmp_path / "front.json")
    assert json.loads((tmp_path / "front.json").read_text()) == facts
    again = FrontRecord.read(tmp_path / "front.json")
    again.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "front.json").read_bytes()


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7])
def test_a_record_of_format_3_to_7_is_read_without_what_was_not_kept(facts, number):
    facts["format"] = number
    record = FrontRecord.parse(facts)
    assert (
        record.format == FORMAT and record.policies[0].points[0].response_scores == () and not record.scorers
    )


def test_each_answer_has_one_score_per_objective_or_none_has_any(facts):
    point = facts["policies"][0]["points"][0]
    point["response_scores"] = [[1.5, None]]
    kept = FrontRecord.parse(facts).policies[0].points[0].response_scores
    assert kept[0][0] == 1.5 and math.isnan(kept[0][1])
    for wrong, message in (([[1.5]], "response_scores.0 has 1 numbers"), ([[1, 2]] * 2, "2 entries for 1")):
        point["response_scores"] = wrong
        with pytest.raises(ParetuneError, match=message):
            FrontRecord.parse(facts)


def test_a_record_cannot_be_changed(facts):
    record = FrontRecord.parse(facts)
    with pytest.raises(ValidationError, match="frozen"):
        record.policies[0].points[0].words = 3.0


def test_a_record_of_0_1_is_read_in_the_words_of_today(tmp_path):
    old = json.loads(OLD.read_text())
    record = FrontRecord.read(OLD)
    assert record.format == FORMAT
    assert [list(point) for point in record.mixture.points] == old["chord"]["points"]
    seconds = [
        test["second"].replace("endpoints, coin toss", "mixture of corners") for test in old["comparisons"]
    ]
    assert [pair.second for pair in record.uncompared] == seconds and not record.comparisons
    for policy, entry in zip(record.policies, old["policies"], strict=True):
        assert [list(point.mean) for point in policy.points] == [point["mean"] for point in entry["points"]]
        kept = policy.figures["hypervolume"].value, policy.figures["inner_product"].to_dict()
        assert kept == (entry["figures"]["hypervolume"]["value"], entry["figures"]["inner_product"])
    record.write(tmp_path / "front.json")
    assert "chord" not in json.loads((tmp_path / "front.json").read_text())


def test_a_record_of_format_2_is_read_without_what_did_not_hold():
    old = json.loads((HERE / "records" / "front-2.json").read_text())
    record = FrontRecord.read(HERE / "records" / "front-2.json")
    assert record.format == FORMAT and not record.comparisons
    assert [(pair.first, pair.second) for pair in record.uncompared] == [("plain", "base"), ("plain", "rich")]
    assert all("run paretune run again" in pair.reason for pair in record.uncompared)
    assert "hypervolumes are as measured" in record.cautions[0]
    figures = record.policies[0].figures
    assert figures["hypervolume"].value == 9.0 and math.isnan(figures["hypervolume"].low)
    assert figures["inner_product"].to_dict() == old["policies"][0]["figures"]["inner_product"]
    assert math.isnan(record.base.hypervolume.low) and math.isnan(record.mixture.hypervolume.high)
    point = record.policies[0].points[0]
    assert point.log_ratio.to_dict() == old["policies"][0]["points"][0]["kl"]
    assert point.on_front is None and point.movement is None and point.shrunk == ()
    surface = Surface.of(record, "plain")
    assert surface.low[0, 1] == 1.5
    assert math.isnan(surface.for_choosing.low[0, 1]), "no interval that holds after choosing is known"
    assert surface.for_choosing.means.tolist() == surface.means.tolist()


def test_a_record_of_0_1_tells_anchors_by_the_policy_beside_it_or_by_its_words(tmp_path):
    assert {p.name for p in FrontRecord.read(OLD).policies if p.anchored} == {"modpo"}
    (tmp_path / "front.json").write_text(OLD.read_text())
    for name, kind in (("modpo", "soup"), ("mod", "anchors")):
        (tmp_path / "policies" / name).mkdir(parents=True)
        (tmp_path / "policies" / name / "policy.json").write_text(json.dumps({"mix": kind}))
    record = FrontRecord.read(tmp_path / "front.json")
    assert {policy.name for policy in record.policies if policy.anchored} == {"mod"}
    assert Surface.read(tmp_path / "front.json", "mod").anchored
    for text in ("{", "[]"):
        (tmp_path / "policies" / "mod" / "policy.json").write_text(text)
        assert not Surface.read(tmp_path / "front.json", "mod").anchored


def test_a_point_without_the_figures_of_later_versions_is_read():
    old = json.loads(OLD.read_text())
    for point in (old["base"], *old["policies"][0]["points"]):
        del point["conflict"], point["used"]
    point = FrontRecord.parse(old).policies[0].points[0]
    assert point.used == point.preference and math.isnan(point.conflict.value)


def remove(facts, *path):
    *parents, last = path
    for key in parents:
        facts = facts[key]
    del facts[last]


def put(facts, value, *path):
    *parents, last = path
    for key in parents:
        facts = facts[key]
    facts[last] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: remove(facts, "reference_point"), "reference_point: Field required"),
        (lambda facts: remove(facts, "mixture"), "mixture: Field required"),
        (
            lambda facts: remove(facts, "policies", 1, "points", 0, "mean"),
            r"policies\.1\.points\.0\.mean: Field",
        ),
        (
            lambda facts: remove(facts, "base", "hypervolume", "low"),
            r"base\.hypervolume\.low: Field required",
        ),
        (
            lambda facts: put(facts, "x", "policies", 0, "points", 1, "mean", 0),
            r"policies\.0\.points\.1\.mean\.0: ",
        ),
        (lambda facts: put(facts, [1.0], "base", "mean"), r"base\.mean has 1 numbers for 2 objectives"),
        (
            lambda facts: put(facts, {"c": 1.0}, "base", "preference"),
            "base.preference is over c; expected a, b",
        ),
        (lambda facts: put(facts, 5, "policies", 0, "knee"), "knee is 5 for 2 points"),
        (lambda facts: put(facts, 1, "policies", 0, "nmae"), r"policies\.0\.nmae: Extra inputs"),
        (lambda facts: put(facts, 99, "format"), "has the format 99"),
        (lambda facts: put(facts, [0.0], "reference_point"), "reference_point has 1 numbers for 2"),
    ],
)
def test_a_wrong_record_ends_in_one_error_with_file_and_key(facts, tmp_path, change, message):
    change(facts)
    file = tmp_path / "front.json"
    file.write_text(json.dumps(facts))
    with pytest.raises(ParetuneError, match=message) as caught:
        FrontRecord.read(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "{", '{"policies": 4}', '{"policies": [3], "base": 1}', "null"]
)
def test_a_file_that_is_no_record_ends_in_one_error(tmp_path, text):
    file = tmp_path / "front.json"
    file.write_text(text)
    with pytest.raises(ParetuneError, match=r"front\.json: not "):
        FrontRecord.read(file)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_record_ends_in_one_error(tmp_path, share):
    file = tmp_path / "front.json"
    text = OLD.read_text()
    file.write_text(text[: int(share * len(text))])
    with pytest.raises(ParetuneError, match=r"front\.json: not valid JSON"):
        FrontRecord.read(file)


def test_an_unknown_policy_is_named_with_the_nearest(facts):
    with pytest.raises(ParetuneError, match="no policy 'palin'; did you mean 'plain'"):
        FrontRecord.parse(facts).policy("palin")


def test_reading_a_record_loads_no_torch():
    code = (
        "import sys; from paretune.fronts.record import FrontRecord;"
        f"FrontRecord.read({str(OLD)!r}); print('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
