"""What to do next: each cause that a record knows has its finding, its cure, and its number; a run without one has none."""

from __future__ import annotations

from typing import Any

import pytest

from paretune.fronts.record import FrontRecord
from paretune.reports.next_steps import next_steps
from paretune.reports.use import commands, standing_of_use, what_next
from paretune.reports.wording import NO_EFFECT
from support.records import figure, point, policy, record
from support.records import test as paired

ENDS = ({"concise": 1.0, "warm": 0.0}, {"concise": 0.5, "warm": 0.5}, {"concise": 0.0, "warm": 1.0})


def moved(value: float, width: float) -> dict[str, Any]:
    return {
        "moved": {"concise": figure(value, width), "warm": figure(value, width)},
        "along": figure(value, width),
        "across": figure(0.0, 0.0),
    }


def made(movement: float = 2.0, cut: float = 0.0, spread: float = 1.0, **rest: Any) -> FrontRecord:
    """Return a record of one policy that moves both objectives by ``movement``, its ends ``spread`` apart."""
    points = []
    for n, weights in enumerate(ENDS):
        mean = [-4.0 - spread * n, -5.0 + spread * n]
        low, high = [m - 0.3 for m in mean], [m + 0.3 for m in mean]
        points.append(point(weights, mean, low, high, cut_rate=cut, movement=moved(movement, 0.5)))
    stages = [{"name": "adapters/modpo", "seconds": 1.0, "reused": False}]
    ends = dict.fromkeys(("concise", "warm"), figure(2 * spread, 0.3))
    values = record(["concise", "warm"], [policy("modpo", points, ends=ends)], stages=stages, **rest)
    values["base"]["cut_rate"] = cut
    return FrontRecord.model_validate(values)


def told(of: FrontRecord) -> str:
    return " ".join(f"{step.finding} {step.cure}" for step in next_steps(of))


def test_a_good_run_has_nothing_to_do_but_its_commands() -> None:
    assert next_steps(made()) == []
    page = what_next(made())
    assert "Nothing that this page knows of stands in the way" in page
    assert "paretune export . exported -p concise=0.5,warm=0.5" in page


def test_cut_answers_ask_for_longer_ones() -> None:
    text = told(made(cut=0.672, sampling={"max_new_tokens": 48}))
    assert "67 % of the answers were cut at 48 tokens" in text
    assert "Raise sampling.max_new_tokens to 96 or more" in text
    assert "max_new_tokens" not in told(made(cut=0.1, sampling={"max_new_tokens": 48}))


def test_no_movement_asks_for_steps_and_says_how_many_prompts_would_show_it() -> None:
    # A half width of 0.5 at 60 prompts: a movement of 0.2 is shown by 60 * (0.5 / 0.2)**2 = 375.
    text = told(made(movement=0.2))
    assert (
        "modpo shows no movement on concise or warm; 60 held-out prompts leave 0.50 deviations open" in text
    )
    assert (
        "about 380 held-out prompts would show the movement of concise as measured (0.20 deviations)" in text
    )
    assert "more held-out prompts would not help" in told(made(movement=-0.2))
    assert "the wrong way" in told(made(movement=-2.0))


def test_a_preference_without_effect_is_named_whatever_shows_it() -> None:
    same = told(made(spread=0.0))
    assert "modpo: the answers are the same at every preference" in same
    assert "60 prompts do not tell apart" in told(made(spread=0.1))
    for spread, seen in (
        (0.1, True),
        (1.0, False),
    ):  # what the answers show is not taken back for the weights
        weak = made(spread=spread).model_dump(mode="json")
        weak["policies"][0]["steerability"] = {"model.layers.0.q_proj": 1e-6}
        assert ("hardly follow the preference" in told(FrontRecord.model_validate(weak))) == seen


def test_differences_that_could_not_be_seen_say_how_many_prompts_would_show_them() -> None:
    tests = [
        paired("modpo", "base", 0.1, "no difference shown", enough_prompts=412),
        paired("modpo", "mixture of corners", 0.01, "no difference shown", enough_prompts=None),
    ]
    text = told(made(comparisons=tests))
    assert "2 of 2 comparisons show no difference; 60 held-out prompts could have shown one of 0.31" in text
    assert "About 410 held-out prompts would show the difference of modpo and base model as measured" in text
    assert "more prompts would not show it" in told(made(comparisons=tests[1:]))
    assert told(made(comparisons=[paired("modpo", "base", 0.9, "modpo above")])) == ""


def test_collapsed_answers_ask_for_less_training() -> None:
    broken = made().model_dump(mode="json")
    broken["policies"][0]["points"][1]["collapse_rate"] = 0.5
    text = told(FrontRecord.model_validate(broken))
    assert (
        "modpo: answers collapse at 1 of 3 preferences (up to 50 %)" in text and "methods.modpo.beta" in text
    )


def test_commands_name_the_run_and_its_best_policy() -> None:
    values = made().model_dump(mode="json")
    values["policies"].append({**values["policies"][0], "name": "mod"})
    values["comparisons"] = [
        paired("mod", "base", 0.9, "mod above"),
        paired("modpo", "base", 0.1, "modpo above"),
    ]
    lines = [line for line, _ in commands(FrontRecord.model_validate(values), "runs/mine")]
    assert lines == [
        "paretune serve runs/mine",
        "paretune choose runs/mine --policy mod",
        'paretune choose runs/mine --policy mod "concise >= -5.30 and warm >= -4.30"',
        "paretune export runs/mine runs/mine-exported --policy mod -p concise=0.5,warm=0.5",
        "paretune status runs/mine",
    ]


def test_a_weak_judge_and_one_that_saw_the_prompts_are_named() -> None:
    def judged(value: float, **facts: Any) -> str:
        accuracy = figure(value, 0.05)
        return told(made(scorers={"warm": {"fingerprint": "x", "accuracy": accuracy, **facts}}))

    assert judged(0.9, longer_accuracy=0.6, seen=0) == ""
    assert "The judge of warm ranks 54 % of held-out pairs as people did, where guessing has 50 %" in judged(
        0.54
    )
    assert "preferring the longer response 80 %: it may judge lengths" in judged(0.7, longer_accuracy=0.8)
    assert "was fitted on 12 of the 60 held-out prompts" in judged(0.9, seen=12)


def test_scores_of_policies_trained_elsewhere_can_only_be_chosen_from() -> None:
    elsewhere = made().model_copy(update={"stages": ()})
    assert [line for line, _ in commands(elsewhere, ".")] == [
        "paretune choose .",
        'paretune choose . "concise >= -5.30 and warm >= -4.30"',
    ]


COST = {"adapters": 2, "passes": 1}
CONDITIONED = {"adapters": 1, "passes": 1}


@pytest.mark.parametrize(
    "costs, named",
    [
        ([CONDITIONED], True),
        ([COST], False),  # a soup of an adapter for each objective is what would be advised
        ([CONDITIONED, COST], False),
        ([None], False),
    ],
)
def test_a_method_is_advised_only_where_it_is_another_way_than_those_of_the_run(
    costs: list[dict[str, int] | None], named: bool
) -> None:
    values = made(spread=0.1).model_dump(mode="json")
    (one,) = values["policies"]
    values["policies"] = [{**one, "name": f"policy-{n}", "cost": cost} for n, cost in enumerate(costs)]
    text = told(FrontRecord.model_validate(values))
    assert NO_EFFECT in text and ("such as dpo-soup" in text) == named and "take modpo" not in text


def test_a_policy_of_the_run_that_follows_the_preference_is_what_is_advised() -> None:
    values, good = made(spread=0.1).model_dump(mode="json"), made().model_dump(mode="json")
    values["policies"][0]["cost"] = CONDITIONED
    values["policies"].append({**good["policies"][0], "name": "soup", "title": "A soup"})
    text = told(FrontRecord.model_validate(values))
    assert "or take A soup, whose answers follow it in this run" in text and "dpo-soup" not in text


def test_answers_that_collapse_never_ask_for_longer_training() -> None:
    broken = made(movement=0.2, spread=0.1).model_dump(mode="json")
    broken["policies"][0]["points"][1]["collapse_rate"] = 0.5
    text = told(FrontRecord.model_validate(broken))
    assert "Train it less" in text and "Train longer" not in text
    assert "Train longer" in told(made(movement=0.2, spread=0.1))


def test_policies_that_are_shown_to_be_worse_are_not_passed_over() -> None:
    tests = [
        paired("modpo", "base", -0.9, "base above"),
        paired("modpo", "mixture of corners", -0.4, "mixture of corners above"),
    ]
    text = told(made(comparisons=tests))
    assert "modpo is shown to be worse than the base model, by 0.90 deviations" in text
    assert "modpo is shown to be worse than the mixture of corners, by 0.40 deviations" in text
    assert "did better" not in text
    better = [*tests, paired("modpo", "mod", -0.5, "mod above")]
    assert "mod did better on these prompts" in told(made(comparisons=better))
    assert standing_of_use(made(comparisons=tests)).startswith(
        "modpo is worse than the base model, and its dial"
    )


def test_more_prompts_are_a_command_where_the_run_holds_them_out() -> None:
    assert [step.change for step in next_steps(made(movement=0.2))] == [""]
    page = what_next(made(movement=0.2, splits={"test": 400}))
    assert "paretune run config.yaml folder=. evaluate.prompts=380" in page
    cut = what_next(made(cut=0.7, sampling={"max_new_tokens": 48}))
    assert "paretune run config.yaml folder=. sampling.max_new_tokens=96" in cut


def test_what_a_policy_is_good_for_is_what_its_verdicts_say() -> None:
    above, open_ = (
        [paired("modpo", "base", 0.5, verdict)] for verdict in ("modpo above", "no difference shown")
    )
    assert standing_of_use(made(comparisons=above)) == (
        "modpo is better than the base model, and its dial is shown to move concise and warm."
    )
    assert standing_of_use(made(comparisons=open_)).startswith(
        "modpo is not shown to be better than the base"
    )
    still = standing_of_use(made(spread=0.1, comparisons=above))
    assert still.endswith("but no effect of the preference is shown: its dial is not shown to do anything.")
    assert standing_of_use(made()).startswith("modpo was not compared with the base model; its dial is shown")
