"""The page, the picture and the model card of a run, made from a small front.json."""

from __future__ import annotations

import json
import math
import re
import time
from html.parser import HTMLParser
from importlib import resources
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml

from paretune.core.files import read_json
from paretune.core.preference import Preference, simplex_grid
from paretune.fronts.front import Front, Interval
from paretune.fronts.indicators import INDICATORS, Indicator
from paretune.fronts.record import FORMAT, FrontRecord
from paretune.reports import picture, plots, wording
from paretune.reports.card import write_card
from paretune.reports.findings import remarks
from paretune.reports.picture import write_picture
from paretune.reports.report import write_report
from paretune.reports.scripts import MODULES, page_script, plot_file
from support import records

EVIL = 'fine</script><script>alert("x")</script> <img src=x onerror=alert(1)> & more'
TITLES = {"modpo": "MODPO", "dpo-soup": "DPO soups", "third": "Third", "fourth": "Fourth"}
SPENT = {"cpu_seconds": 120.0, "tokens_read": 31_600, "tokens_sampled": 3160, "peak_bytes": 1_234_000_000}


def make_point(objectives, weights, lift, prompts, text="An answer."):
    mean = [-6.0 + 4.0 * w + lift for w in weights]
    low, high = ([value + d for value in mean] for d in (-0.3, 0.3))
    preference = dict(zip(objectives, weights, strict=True))
    moved = {objective: records.figure(2.0 * weight, 0.3) for objective, weight in preference.items()}
    movement = {"moved": moved, "along": records.figure(2.0), "across": records.figure(0.7)}
    return records.point(preference, mean, low, high, responses=[text] * prompts, movement=movement)


def make_run(names=("modpo", "dpo-soup"), objectives=("concise", "warm"), divisions=2, prompts=2):
    """Return a run whose first policy is above the base model and whose policies do not differ."""
    M = len(objectives)
    grid = simplex_grid(M, divisions).tolist() if divisions else [[1 / M] * M]
    base = make_point(objectives, [0.1] * M, -0.5, prompts, "From the base model.")
    policies = []
    for i, name in enumerate(names):
        points = [
            make_point(objectives, weights, 0.2 * i, prompts, f"{name} answer {n}")
            for n, weights in enumerate(grid)
        ]
        controls = {f"controllability:{objective}": records.figure(0.9, 0.1) for objective in objectives}
        figures = {
            key: records.figure(9.0 + i)
            for key in ("hypervolume", "hull_hypervolume", "inner_product", "igd_plus", "sparsity", "spacing")
        }
        policies.append({
            "name": name,
            "anchored": False,
            "title": TITLES[name],
            "paper": "arXiv 2310.03708",
            "enters": "weights: one adapter per preference",
            "cost": {"runs": 3, "seconds": 312.0, "tokens": 41_000, "adapters": 3, "passes": 1},
            "points": points,
            "figures": {**figures, **controls},
            "non_dominated": [True] * len(points),
            "knee": len(points) // 2,
            "seconds": 20.0,
            "tokens": 4800,
        })  # fmt: skip
    comparisons = []
    for name in names:
        comparisons.append(records.test(name, "base", 0.45, f"{name} above"))
        comparisons.append(records.test(name, "mixture of corners", 0.125, "no difference shown"))
    comparisons += [records.test(a, b, -0.25, "no difference shown") for a, b in combinations(names, 2)]
    scores = {
        "count": 80,
        "missing": 0,
        "mean": -4.0,
        "std": 1.0,
        "low": -9.0,
        "quartiles": [-5.0, -4.0, -3.0],
    }
    lengths = {"mean": 30.0, "p50": 28.0, "p95": 60.0, "longest": 77}
    about = {
        "name": "quickstart",
        "prompts": [f"Question {p}?" for p in range(prompts)],
        "base": {**base, "log_ratio": records.figure(0.0, 0.0), "hypervolume": records.figure(5.5)},
        "mixture": {
            "points": [[-6 + 4 * w for w in row] for row in simplex_grid(M, 4).tolist()],
            "hypervolume": records.figure(8.0),
        },
        "comparisons": comparisons,
        "objectives_info": {objective: f"meaning of {objective} | measured" for objective in objectives},
        "sampling": {"max_new_tokens": 128, "temperature": 0.7, "top_p": 0.95, "samples": 2},
        "data": {
            "rows": 150,
            "prompts": 148,
            "responses": 600,
            "objectives": [
                {"objective": o, **scores, "high": -1.0, "comparisons": 0, "ties": 0} for o in objectives
            ],
            "repeated_prompts": 2,
            "identical_responses": 3,
            "truncated_share": 0.043,
            "prompt_words": lengths,
            "response_words": lengths,
            "conflicts": [[0.0 if i == j else 0.613 for j in range(M)] for i in range(M)],
            "layered": 600,
            "layers_by_prompt": [300, 300],
            "layers_overall": [9, 591],
        },
        "splits": {"train": 150, "validation": 20, "test": 60},
        "stages": [
            {"name": "adapters/dpo-warm", "seconds": 63.2, "reused": False, "spent": SPENT},
            {"name": "front/base", "seconds": 20.0, "reused": True},
        ],
        "rest": {"name": "rest", "seconds": 12.0, "reused": False, "spent": SPENT},
        "scoring_forwards": 480,
        "licence": "",
    }
    return records.record(objectives, policies, **about)


def parsed(run):
    return FrontRecord.parse(run)


class Page(HTMLParser):
    """Collects the elements and the visible text of a page, and fails on tags that do not match."""

    VOID = frozenset({"meta", "link", "input", "br", "img", "hr"})
    SVG_LEAVES = frozenset({"path", "circle", "rect"})

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.text, self.scripts = [], [], "", []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in self.SVG_LEAVES
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.scripts.append((self.open[-1], data))
        else:
            self.text += data

    def all(self, tag, kind=None):
        return [
            a for t, a in self.elements if t == tag and (kind is None or kind in a.get("class", "").split())
        ]


def data_of(page):
    """Return the JSON that the page's script shows; the record stands behind it."""
    shown, record = (
        json.loads(text) for kind, text in page.scripts if kind == "script" and text.startswith("{")
    )
    assert "texts" in shown and record["format"] == FORMAT
    return shown


def page_of(run, folder):
    return Page(write_report(parsed(run), folder).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("names", "objectives", "divisions"),
    [
        (("modpo", "dpo-soup"), ("concise", "warm"), 4),
        (("modpo",), ("concise", "warm"), 4),
        (("modpo", "dpo-soup"), ("concise", "warm"), 0),
        (("modpo", "dpo-soup", "third"), ("concise", "warm", "plain"), 2),
        (("modpo",), ("a", "b", "c", "d", "e"), 1),
    ],
    ids=["two", "one policy", "one preference", "three objectives", "five objectives"],
)
def test_page_shows_every_policy_preference_and_verdict(tmp_path, names, objectives, divisions):
    run = make_run(names, objectives, divisions)
    page = page_of(run, tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 400_000
    for policy in run["policies"]:
        assert page.text.count(policy["title"]) >= 3
        for n, point in enumerate(policy["points"]):
            assert wording.preference(point["preference"]) in page.text
            assert f"{policy['name']} answer {n}" in page.text  # the table that needs no script
    verdicts = [wording.verdict(parsed(run), test) for test in parsed(run).comparisons]
    for verdict in set(verdicts):
        assert page.text.count(verdict) >= verdicts.count(verdict)
    drawn = {a["aria-label"].split(":")[0] for a in page.all("g", "pt")}
    assert drawn == {
        f"{policy.label} at {wording.preference(point.preference)}"
        for policy in parsed(run).policies
        for point in policy.points
    }
    M = len(objectives)
    steering = {2: 2, 3: 3 * len(names)}.get(M, 0)
    assert len(page.all("svg", "plot")) == (2 if M == 2 else M * (M - 1) // 2 + 2) + steering


def test_the_modules_of_the_plot_can_share_a_scope():
    """In a report they are one text: each name is declared once, and each module follows those that it imports."""
    declared = []
    for n, name in enumerate(MODULES):
        text = plot_file(name)
        declared += re.findall(r"^(?:export )?(?:async )?(?:function|class) (\w+)", text, re.MULTILINE)
        declared += re.findall(r"^(?:export )?(?:const|let) (\w+)", text, re.MULTILINE)
        assert set(re.findall(r'from "\./([^"]+)"', text)) <= set(MODULES[:n])
    assert len(declared) == len(set(declared)) > 30
    assert not re.search(r"^\s*(import|export) ", page_script(), re.MULTILINE)


def test_page_loads_nothing_from_elsewhere(tmp_path):
    page = page_of(make_run(), tmp_path)
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "object", "embed"), tag
        for name in ("src", "href", "action", "data"):
            assert re.match(r"#|data:", attributes.get(name) or "#"), (tag, attributes)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    source = source.replace(
        "http://www.w3.org/2000/svg", ""
    )  # the name of a namespace, which nothing asks for
    assert "http://" not in source and "https://" not in source
    assert "@import" not in source and "url(" not in source


def test_texts_of_models_and_data_cannot_become_markup(tmp_path):
    run = make_run()
    plain = page_of(run, tmp_path / "plain")
    run["name"] = run["model"] = run["prompts"][0] = EVIL
    run["objectives_info"]["concise"] = run["stages"][0]["name"] = run["policies"][0]["title"] = EVIL
    run["policies"][0]["enters"] = run["policies"][0]["paper"] = run["sampling"]["stop"] = EVIL
    for point in [run["base"], *run["policies"][0]["points"]]:
        point["responses"] = [EVIL, EVIL]
    page = page_of(run, tmp_path / "evil")
    assert len(page.all("script")) == len(plain.all("script")) == 3
    assert len(page.all("img")) == 0
    assert page.text.count(EVIL) > 10
    data = data_of(page)
    texts = [data["texts"][number] for number in data["policies"][0]["points"][0]["answers"]]
    assert texts == [EVIL, EVIL] and data["texts"].count(EVIL) == 1, "a text stands once"
    assert data["prompts"][0] == EVIL


def test_objectives_with_markup_are_escaped(tmp_path):
    page = page_of(make_run(objectives=("<b>bold</b>", "a&b", "c")), tmp_path)
    assert "<b>bold</b> → better" in page.text
    write_card(parsed(make_run(objectives=("<b>|", "a&b"))), tmp_path / "README.md")
    assert (
        "<b>"
        not in (tmp_path / "README.md").read_text(encoding="utf-8").split("## Use")[0].split("---\n", 2)[2]
    )


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_numbers_that_do_not_exist_are_a_dash(tmp_path, nothing):
    run = make_run()
    undefined = {"value": nothing, "low": nothing, "high": nothing, "level": 0.95}
    for policy in run["policies"]:
        for key in ("sparsity", "spacing", "controllability:concise"):
            policy["figures"][key] = undefined
        for point in policy["points"]:
            point.update(low=[nothing] * 2, high=[nothing] * 2, base_logp=nothing, log_ratio=undefined)
            point["movement"].update(along=undefined, across=undefined, moved={"warm": undefined})
    run["data"]["conflicts"][0][1] = nothing
    run["data"]["objectives"][0].update(
        low=nothing, high=nothing, quartiles=[nothing] * 3, mean=nothing, std=nothing
    )
    page = page_of(run, tmp_path)
    assert not re.search(r"\b(nan|None|null|undefined)\b", page.text, re.IGNORECASE)
    summary = wording.summary(parsed(run))
    assert "MODPO has concise at −2.0 (base model −6.1)" in summary, "no movement is claimed"
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<td class="num">-</td>' in source and "nan" not in "".join(re.findall(r' d="[^"]*"', source))
    write_picture(parsed(run), tmp_path / "front.png")
    write_card(parsed(run), tmp_path / "README.md")
    assert not re.search(r"\b(nan|None)\b", (tmp_path / "README.md").read_text(encoding="utf-8"))


def first_remarks(run):
    return remarks(parsed(run), parsed(run).policies[0].points[0])


def test_an_answer_shows_its_own_scores_beside_the_mean(tmp_path):
    run = make_run(prompts=1)
    point = run["policies"][0]["points"][0]
    point["responses"], point["response_scores"] = ["one two three"], [[-11.1, 3.53]]
    page = page_of(run, tmp_path)
    assert "concise −11.1, warm 3.5, words 3" in page.text, "in the table that needs no script"
    data = data_of(page)
    k = next(
        k
        for k, one in enumerate(data["preferences"])
        if one["text"] == wording.preference(point["preference"])
    )
    assert data["policies"][0]["points"][k]["own"] == [[-11.1, 3.53, 3]] and data["digits"] == [1, 1]
    assert data["mean"] == "mean of 60 prompts"
    assert data["base"]["own"] == [[None, None, 4]], "an answer whose scores were not kept"
    assert "no scores of single answers" in page.text
    run["base"]["response_scores"] = [[-6.0, 1.0]]
    assert "the scores of that answer" in page_of(run, tmp_path).text


def test_a_straight_front_has_no_knee_and_says_so(tmp_path):
    run = make_run(names=("modpo",), divisions=4)
    page = page_of(run, tmp_path)
    assert "No knee: this front is straight or bends inwards" in page.text
    assert len(page.all("circle", "knee")) == 0 and len(page.all("span", "knee")) == 0
    assert len(wording.chosen_points(parsed(run), parsed(run).policies[0])) == 2, "one for each objective"
    middle = run["policies"][0]["points"][2]
    middle["mean"] = [-3.0, -3.0]
    page = page_of(run, tmp_path)
    assert "No knee" not in page.text and len(page.all("circle", "knee")) == 3, "two drawings and the legend"


def test_stages_show_what_they_spent_where_that_is_known(tmp_path):
    run = make_run()
    stages = page_of(run, tmp_path).text.split("Stages")[1]
    for figure in ("2.0 min", "63.2 s", "31,600", "3,160", "550", "1,234", "all else", "2,897"):
        assert figure in stages, figure
    del run["rest"], run["stages"][0]["spent"]
    stages = page_of(run, tmp_path).text.split("Stages")[1]
    assert "all else" not in stages and "31,600" not in stages


def test_a_stage_that_methods_share_is_listed_once(tmp_path):
    run = make_run()
    shared = run["stages"][0]
    run["stages"] += [{**shared, "seconds": 0.0, "reused": True}] * 2
    text = page_of(run, tmp_path).text.split("Stages")[1]
    assert text.count(shared["name"]) == 1 and "computed, then reused 2 times" in text


def test_remarks_flag_collapse_and_strange_text_in_words(tmp_path):
    run = make_run()
    point = run["policies"][0]["points"][0]
    for other in (run["base"], *(one for policy in run["policies"] for one in policy["points"])):
        other["cut_rate"] = 0.2
    assert first_remarks(run) == []
    point.update(collapse_rate=0.05, base_logp=-2.5)  # exactly at the thresholds: not above them
    assert first_remarks(run) == []
    point.update(collapse_rate=0.083, cut_rate=0.92, base_logp=-2.75)
    assert first_remarks(run) == [
        "collapses: 8.3 % of answers",
        "cut: 92 % of answers end at the token limit",
        "strange text: 1.2 nats per token below base",
    ]
    page = page_of(run, tmp_path)
    assert "collapses: 8.3 % of answers" in page.text and len(page.all("span", "flag")) == 3


def test_served_preference_is_named_where_it_is_another(tmp_path):
    run = make_run()
    run["policies"][0]["points"][1]["used"] = {"concise": 1.0, "warm": 0.0}
    assert page_of(run, tmp_path).text.count("served by concise 1, warm 0") == 1


def test_summary_tells_the_numbers():
    run = make_run()
    assert wording.summary(parsed(run)) == (
        "Against the base model, MODPO moves concise from −6.1 to −2.0 and warm from −6.1 to −2.0; "
        "DPO soups moves concise from −6.1 to −1.8 and warm from −6.1 to −1.8; "
        "MODPO and DPO soups are above the base model; between them no difference is shown."
    )


def test_summary_does_not_hide_failure():
    run = make_run(("modpo", "dpo-soup"))
    run["comparisons"][0]["verdict"] = "base above"
    run["comparisons"][2]["verdict"] = "no difference shown"
    run["comparisons"][4]["verdict"] = "dpo-soup above"
    concise, warm = (
        next(point for point in run["policies"][0]["points"] if point["preference"][name] == 1)
        for name in ("concise", "warm")
    )
    concise["mean"][0], concise["movement"]["moved"]["concise"] = -7.5, records.figure(-0.6, 0.3)
    warm["movement"]["moved"]["warm"] = records.figure(1.2, 1.3)
    text = wording.summary(parsed(run))
    assert text.startswith(
        "Against the base model, MODPO moves concise the wrong way, from −6.1 to −7.5 and shows no movement on warm; "
    )
    assert "MODPO is below the base model, for DPO soups no difference from it is shown" in text
    assert text.endswith("DPO soups is above MODPO.")


def test_more_policies_than_two_are_summed_up():
    run = make_run(("modpo", "dpo-soup", "third"))
    run["comparisons"][4]["difference"] = 0.6
    text = wording.summary(parsed(run))
    assert text.startswith("Against the base model, Third moves "), "the highest above the base model"
    assert (
        "MODPO, DPO soups and Third are above the base model; between any two of them no difference" in text
    )


def test_of_many_pairs_it_is_counted_how_often_each_is_below():
    run = make_run(("modpo", "dpo-soup", "third", "fourth"))
    for pair in run["comparisons"]:
        if pair["second"] in TITLES:
            pair["verdict"] = f"{pair['first']} above"
    text = wording.summary(parsed(run))
    assert text.endswith("Fourth is below 3 others, Third is below 2 others and DPO soups is below 1 other.")


def test_no_two_policies_look_alike():
    seen = {(i % len(plots.SHAPES), plots.shape_of(i)) for i in range(64)}
    assert len(seen) == 64
    assert len(picture.COLOURS) == len(plots.SHAPES) == len(picture.MARKERS)
    css = resources.files("paretune.reports").joinpath("templates/report.css").read_text()
    assert all(css.count(f"--p{i}: #") == 2 and f".pol{i} " in css for i in range(len(plots.SHAPES)))


def test_one_policy_and_one_preference_make_a_sentence():
    run = make_run(("modpo",), divisions=0)
    assert (
        wording.summary(parsed(run))
        == "Against the base model, MODPO moves concise from −6.10 to −4.00 and warm from −6.10 to −4.00; "
        "MODPO is above the base model."
    )


@pytest.mark.parametrize(
    ("objectives", "names"),
    [
        (("concise", "warm"), ("modpo", "dpo-soup")),
        (("a", "b", "c"), ("modpo",)),
        (("a", "b", "c", "d"), ("modpo",)),
        (("a", "b", "c", "d", "e"), ("modpo",)),
    ],
)
def test_picture_is_a_png_of_the_stated_size(tmp_path, objectives, names):
    import matplotlib

    before = matplotlib.rcParams.copy()
    write_picture(parsed(make_run(names, objectives, 1)), tmp_path / "front.png")
    raw = (tmp_path / "front.png").read_bytes()
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(raw[16:20], "big"), int.from_bytes(raw[20:24], "big")) == (1600, 1000)
    assert matplotlib.rcParams.copy() == before


def test_card_head_and_use_can_be_read_back(tmp_path):
    run = make_run()
    run["licence"] = "apache-2.0"
    write_card(parsed(run), tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["base_model"] == "smollm2-135m" and facts["license"] == "apache-2.0"
    assert {"paretune", "modpo", "dpo-soup"} <= set(facts["tags"])
    (code,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    compile(code, "card", "exec")
    (used,) = re.findall(r"Preference\.parse\('(.*?)'\)", code)
    knee = run["policies"][0]["points"][run["policies"][0]["knee"]]
    assert Preference.parse(used).as_dict() == knee["preference"]
    assert "load_policy('policies/modpo')" in code


def test_card_tables_are_whole(tmp_path):
    run = make_run()
    write_card(parsed(run), tmp_path / "README.md")
    body = (tmp_path / "README.md").read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\|\n)+", body, re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        assert (
            len({line.count("|") for line in table.splitlines()}) == 1
        )  # a | in a text is written as an entity
    assert len(tables[2].splitlines()) == 2 + 1 + sum(len(p["points"]) for p in run["policies"])
    assert "Reference point: concise −7.0, warm −7.0" in body
    assert "meaning of concise &#124; measured" in body
    assert "Licence: not stated" in body and "license" not in body.split("---\n")[1]


def test_report_of_a_front_measured_without_training(tmp_path):
    run = {
        key: value
        for key, value in make_run().items()
        if key not in ("data", "splits", "stages", "rest", "scoring_forwards")
    }
    page = page_of(run, tmp_path)
    assert "Training data" not in page.text and "Stages" not in page.text


def test_ticks_are_round_and_within():
    for low, high in (
        (-6.3, -1.8),
        (0.0, 1.0),
        (1234.0, 5678.0),
        (-0.004, 0.003),
        (0.1, 0.1000001),
        (-9.1, -1.4),
    ):
        for count in (3, 5):
            marks = plots.ticks(low, high, count)
            assert 3 <= len(marks) <= 12
            assert low - 1e-9 <= marks[0] and marks[-1] <= high + 1e-9


def test_labels_stay_inside_and_apart():
    crowd = [(50.0 + 4 * k, 50.0, f"0.{k}") for k in range(3)] + [(1.0, 99.0, "corner")]
    centres = plots.place_labels(crowd, [], (0, 0, 100, 100), 6.0, 12.0)
    boxes = [
        (x - len(text) * 3, y - 6, x + len(text) * 3, y + 6)
        for (x, y), (_, _, text) in zip(centres, crowd, strict=True)
    ]
    for a, b in combinations(boxes, 2):
        assert plots._shared(a, np.array([b])) == 0
    for x0, y0, x1, y1 in boxes:
        assert x0 >= 0 and y0 >= 0 and x1 <= 100 and y1 <= 100


def test_labels_of_a_front_with_many_points_are_placed_quickly_where_they_cover_least():
    """Each of hundreds of labels is compared with thousands of boxes; one pair at a time that takes a minute."""
    draw = np.random.default_rng(0)
    area = (0.0, 0.0, 900.0, 900.0)
    corners = draw.uniform(0, 900, (6000, 2))
    blocked = [tuple(box) for box in np.hstack([corners, corners + draw.uniform(1, 30, (6000, 2))]).tolist()]
    labels = [(x, y, f"{n}") for n, (x, y) in enumerate(draw.uniform(0, 900, (300, 2)).tolist())]
    began = time.process_time()
    centres = plots.place_labels(labels, blocked, area, 6.0, 12.0)
    assert time.process_time() - began < 5
    few = plots.place_labels(labels[:3], blocked[:40], area, 6.0, 12.0)
    assert few == _placed_one_by_one(labels[:3], blocked[:40], area, 6.0, 12.0)
    assert len(centres) == 300


def _placed_one_by_one(labels, blocked, area, character, height):
    def shared(a, b):
        return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))

    taken, centres = list(blocked), []
    for x, y, text in labels:
        half, tall, tried = len(text) * character / 2, height / 2, []
        for order, (across, up) in enumerate(plots._AROUND):
            reach = height * (0.42 if across and up else 0.95)
            cx, cy = x + across * (half + reach), y - up * (tall + reach)
            box = (cx - half, cy - tall, cx + half, cy + tall)
            outside = 4 * half * tall - shared(box, area)
            tried.append((0.5 * order + sum(shared(box, b) for b in taken) + 20 * outside, (cx, cy), box))
        best = min(tried, key=lambda each: each[0])
        centres.append(best[1])
        taken.append(best[2])
    return centres


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        (lambda: wording.number(-0.0), "0"),
        (lambda: wording.number(-0.001, 2), "0.00"),
        (lambda: wording.number(12345.6), "12,346"),
        (lambda: wording.number(math.inf), "-"),
        (lambda: wording.percent(0.083), "8.3 %"),
        (lambda: wording.percent(None), "-"),
        (lambda: wording.duration(0.0), "0.0 s"),
        (lambda: wording.duration(3000), "50.0 min"),
        (lambda: wording.interval(Interval(1.0, math.nan, math.nan), 1), "1.0"),
        (lambda: wording.listing(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_in_words(call, shown):
    assert call() == shown


def test_scores_are_drawn_over_their_weight(tmp_path):
    run = make_run(divisions=4)
    write_report(parsed(run), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    section = page.split('<section id="steering">')[1].split("</section>")[0]
    assert section.count("<svg") == 2 and "weight on concise" in section and "weight on warm" in section
    policies, points = len(run["policies"]), len(run["policies"][0]["points"])
    assert section.count('<g class="pt') == 2 * policies * points
    drawn = [float(x) for x in re.findall(r'class="pt pol0[^>]*>.*?cx="([\d.]+)"', section)]
    assert len(drawn) == 2 * points and drawn[0] == max(drawn[:points]), (
        "the first point has all weight on concise"
    )


def test_three_objectives_have_a_triangle_each(tmp_path):
    run = make_run(names=("modpo",), objectives=("concise", "warm", "plain"), divisions=2)
    write_report(parsed(run), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    section = page.split('<section id="steering">')[1].split("</section>")[0]
    assert section.count('class="plot"') == 3 and section.count("fill-opacity") == 3 * 6
    first = section.split('class="plot"')[1].split("</svg>")[0]
    dots = [(float(r), float(y)) for y, r in re.findall(r'cy="([\d.]+)" r="([\d.]+)"', first)]
    assert max(dots)[1] == min(y for _, y in dots), "the best of concise stands at its corner, the upper one"
    write_report(parsed(make_run(objectives=("a", "b", "c", "d"), divisions=1)), tmp_path)
    assert 'id="steering"' not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(0.5, "−0.30"), (0.001, "hardly changes"), (0.0, "hardly changes"), (None, "nothing is shared")],
)
def test_how_far_the_weights_follow_the_preference_is_shown(tmp_path, ratio, text):
    run = make_run()
    run["policies"][0]["steerability"] = {f"model.layers.{n}.self_attn.q_proj": ratio for n in range(3)}
    write_report(parsed(run), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ('<section id="steerability">' in page) == (ratio is not None), "what says nothing is left out"
    if ratio is None:
        return
    section = page.split('<section id="steerability">')[1].split("</section>")[0]
    assert text in section and ("⚠ the preference hardly" in section) == (text == "hardly changes")
    assert section.count('class="layer"') == 3
    del run["policies"][0]["steerability"]
    write_report(parsed(run), tmp_path)
    assert 'id="steerability"' not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_data_the_methods_made_are_shown(tmp_path):
    run = make_run()
    assert 'id="made"' not in write_report(parsed(run), tmp_path).read_text(encoding="utf-8")
    counts = {
        "drawn": 40,
        "empty": 0,
        "cut": 3,
        "collapsed": 1,
        "kept": 12,
        "gap": {"concise": 0.5, "<warm>": 1.25},
    }
    run["policies"][0]["online"] = [counts]
    run["policies"][1]["retention"] = {
        "round": 1, "pairs": 90, "conflicts": 41, "taken": 40, "sampled": 160, "cut": 7, "empty": 0, "unread": 5,
        "rewritten": 30, "kept": 20, "repeated": 2, "survivors": 11,
    }  # fmt: skip
    text = (
        write_report(parsed(run), tmp_path)
        .read_text(encoding="utf-8")
        .split('<section id="made">')[1]
        .split("</section>")[0]
    )
    assert (
        "40 answers to goals drawn, 12 kept" in text and "concise 0.50, &lt;warm&gt; 1.25 deviations" in text
    )
    assert "41 of 90 pairs conflict, 40 taken, 11 improved" in text and "30 rewritten (kept: 20)" in text


def test_the_conflict_of_mixed_policies_is_shown(tmp_path):
    run = make_run()
    assert 'id="mixing"' not in write_report(parsed(run), tmp_path).read_text(encoding="utf-8")
    points = run["policies"][0]["points"]
    for point in points:
        point["conflict"] = records.figure(0.042, 0.01)
    run["policies"][0]["soup_kl"] = [records.figure(0.007, 0.001) for _ in points]
    text = (
        write_report(parsed(run), tmp_path)
        .read_text(encoding="utf-8")
        .split('<section id="mixing">')[1]
        .split("</section>")[0]
    )
    assert text.count("0.042") == text.count("0.007") == len(points)


def test_points_off_the_simplex_are_marked(tmp_path):
    run = make_run()
    beyond = make_point(("concise", "warm"), [1.2, -0.2], 0.9, 2, "An answer from beyond.")
    run["policies"][1]["extrapolations"] = [beyond]
    page = write_report(parsed(run), tmp_path).read_text(encoding="utf-8")
    assert "1.2 extrapolated" in page and "1.2 / -0.2<br>extrapolated, in no figure" in page
    assert page.count('faded beyond"') == 2, "the drawings for desktop and phone"
    assert plots.span(parsed(run), 0)[1] >= beyond["mean"][0], "shown whole"
    write_picture(parsed(run), tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 10_000
    write_card(parsed(run), tmp_path / "README.md")
    assert f"{TITLES['dpo-soup']}, extrapolated | 1.2 / -0.2" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("count", [3, 16, 40])
@pytest.mark.slow
def test_a_legend_of_many_policies_stands_inside_and_above_the_axes(count: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    point = records.point({"concise": 1.0, "warm": 0.0}, [0.0, 0.0])
    measured = [
        records.policy(f"p{i}", [point], title=f"Rewards-in-Context ({'very ' * i}long {i})")
        for i in range(count)
    ]
    figure = Figure(figsize=(10, 6.25), dpi=160)
    FigureCanvasAgg(figure)
    top = picture._heading(figure, parsed(records.record(["concise", "warm"], measured)))
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width
    assert box.y0 > (top + 0.03) * figure.bbox.height and len(legend.get_texts()) == count + 2


def test_two_policies_with_the_same_point_are_both_seen(tmp_path: Path) -> None:
    run = make_run()
    run["policies"][1]["points"][0]["mean"] = run["policies"][0]["points"][0]["mean"]
    record = parsed(run)
    sizes = [plots.nesting(record, i, record.policies[i].points[0]) for i in range(2)]
    assert sizes == [(1.0, True, True), (0.58, True, False)], "a mark in a ring"
    assert plots.nesting(record, 0, record.policies[0].points[1]) == (1.0, False, False)


@pytest.mark.parametrize("result", ["compare", "morlhf", "panacea", "three"])
def test_headline_and_legend_stand_inside_the_picture(result: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kept = read_json(Path(__file__).parents[2] / "docs" / "results" / result / "figures.json")
    measured = [
        records.policy(
            p["name"], [records.point(q["preference"], q["mean"]) for q in p["points"]], title=p["title"]
        )
        for p in kept["policies"]
    ]
    run = parsed(records.record(kept["objectives"], measured))
    figure = Figure(figsize=(10, 6.25), dpi=160)
    FigureCanvasAgg(figure)
    picture._heading(figure, run)
    for drawn in (*figure.texts, *figure.legends):
        assert drawn.get_window_extent().x1 <= figure.bbox.width
    shown = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    assert len(figure.legends) == 1 and len(shown) == len(run.policies) + 2


def test_an_indicator_is_added_by_a_function_and_a_line(tmp_path, monkeypatch):
    def worst(points):
        return float(points.min())

    added = Indicator(lambda front: worst(front.points), "worst", "Worst is the lowest score.", "higher")
    monkeypatch.setitem(INDICATORS, "worst", added)
    front = Front("f", ("a", "b"), [[1, 0], [0, 1]], [[[1, 2], [3, 4]], [[0, 5], [2, 7]]], ("p", "q"))
    figures = front.summary([0.0, 0.0], resamples=20)
    assert figures["worst"].value == 1.0
    run = make_run()
    run["policies"][0]["figures"]["worst"] = figures["worst"].to_dict()
    page = page_of(run, tmp_path)
    section = page.text.split("Hypervolume and other figures")[2].split("Which is above which")[0]
    assert "worst" in section and "Worst is the lowest score." in section
    assert "Worst is" not in page_of(make_run(), tmp_path).text, "only what a record holds is shown"
