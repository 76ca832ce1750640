"""Every kind of policy behind the one protocol, on the disk and off it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paretune.core.errors import ModelError, PreferenceError
from paretune.core.preference import Preference, preference_grid
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.generation.mixing import Mixing
from paretune.models.adapter import stack
from paretune.models.language_model import LanguageModel
from paretune.policies.alike import alike
from paretune.policies.catalogue import find_sources
from paretune.policies.export import export
from paretune.policies.policy import Policy
from paretune.policies.policy_file import PolicyFile
from paretune.policies.prompts import Prompting
from paretune.policies.saving import load
from support.random_models import random_adapter

OBJECTIVES = ("short", "good")
GRID = preference_grid(OBJECTIVES, 2)
HALF = Preference.uniform(OBJECTIVES)
PROMPTS = [(Message("user", "red sun"),), (Message("user", "a good stone"),)]
KINDS = ("base", "soup", "anchors", "conditioned", "mod", "prompt")
BEYOND = Preference.parse("short=1.2,good=-0.2", OBJECTIVES, True)


@pytest.fixture(scope="module")
def policies(lm: LanguageModel) -> dict[str, Policy]:
    first, second, third = (random_adapter(lm.model, seed=seed, base=lm.fingerprint) for seed in (1, 2, 3))
    prompting = Prompting.of(
        OBJECTIVES, torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).numpy()
    )
    reader = replace(third, info={"prompting": prompting.to_dict()})
    found = [
        Policy.base(lm, OBJECTIVES),
        Policy.soup("soup", lm, OBJECTIVES, [first, second]),
        Policy.anchors("anchors", lm, OBJECTIVES, [first, third, second], GRID),
        Policy.conditioned("conditioned", lm, OBJECTIVES, stack([first, second])),
        Policy.mod("mod", lm, OBJECTIVES, [first, second], Mixing(candidates=2)),
        Policy.prompted("prompt", lm, OBJECTIVES, reader),
    ]
    return {policy.kind: policy for policy in found}


def test_the_fixture_has_every_kind(policies: dict[str, Policy]) -> None:
    assert tuple(policies) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_is_read_back_as_it_was(policies: dict[str, Policy], kind: str, tmp_path: Path) -> None:
    policy = policies[kind]
    policy.save(tmp_path / "p")
    loaded = Policy.load(tmp_path / "p", policy.lm)
    assert type(loaded) is type(policy) and (loaded.kind, loaded.objectives) == (kind, OBJECTIVES)
    assert [loaded.effective(w) for w in GRID] == [policy.effective(w) for w in GRID]
    for name in ("name", "copies", "passes", "candidates", "anchor_preferences", "no_export", "extrapolates"):
        assert getattr(loaded, name) == getattr(policy, name), name
    drawn = [p.generate(PROMPTS, GRID[:2], Sampling(4), [3, 4]) for p in (policy, loaded)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("kind", KINDS)
def test_members_agree_with_each_other(policies: dict[str, Policy], kind: str, tmp_path: Path) -> None:
    policy = policies[kind]
    gates, mixture = policy.gates([HALF]), policy.mixture([HALF])
    assert (gates is None) == (not policy.adapters)
    assert (mixture is None) == (policy.stand_in() is None) == (policy.copies == 1)
    if mixture is not None:
        assert gates is not None and mixture.copies.shape[1] == gates.shape[1]
        assert policy.copies == gates.shape[1] * policy.candidates
        assert policy.passes == int(mixture.copies.sum()) * policy.candidates
    assert (policy.prompt_end(HALF) != "") == (policy.asked(PROMPTS, [HALF] * 2) != PROMPTS)
    used = policy.used([Preference.parse("short=0.9,good=0.1")])
    assert used == ([GRID[0]] if policy.anchor_preferences else [Preference.parse("short=0.9,good=0.1")])
    if policy.extrapolates:
        policy.weights([BEYOND])
    else:
        with pytest.raises(PreferenceError, match="cannot extrapolate"):
            policy.weights([BEYOND])
    if policy.no_export:
        with pytest.raises(ModelError) as caught:
            export(policy, HALF, tmp_path / "lora")
        assert str(caught.value) == policy.no_export
    else:
        assert export(policy, HALF, tmp_path / "lora").preference == HALF


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_disk_says_of_a_policy_is_what_the_policy_says(
    policies: dict[str, Policy], kind: str, tmp_path: Path
) -> None:
    policy = policies[kind]
    policy.save(tmp_path / "policies" / policy.name)
    facts = PolicyFile.read(tmp_path / "policies" / policy.name)
    assert facts.exportable == (not policy.no_export)
    assert facts.anchor_preferences == policy.anchor_preferences
    (source,) = find_sources(tmp_path)
    assert (source.kind, source.exportable, source.anchors) == (
        kind,
        facts.exportable,
        policy.anchor_preferences,
    )


def test_the_file_of_0_1_is_still_written_and_read(policies: dict[str, Policy], tmp_path: Path) -> None:
    policies["anchors"].save(tmp_path / "p")
    lm = policies["anchors"].lm
    written = {
        "name": "anchors",
        "model": lm.name,
        "base": lm.fingerprint,
        "objectives": ["short", "good"],
        "mix": "anchors",
        "anchors": [{"short": 1.0, "good": 0.0}, {"short": 0.5, "good": 0.5}, {"short": 0.0, "good": 1.0}],
        "adapters": 3,
        "mixing": {"divergence": "reverse-kl", "alpha": 0.5, "candidates": 1},
        "dtype": "float32",
    }
    since = {"hub": "", "revision": "", "weights": lm.origin.weights, "quantization": "none"}
    assert json.loads((tmp_path / "p/policy.json").read_text()) == {**written, **since}
    (tmp_path / "p/policy.json").write_text(
        json.dumps(
            {**written, "mix": "soup", "objectives": ["a", "b", "c"], "anchors": []} | {"dtype": "auto"}
        )
    )
    assert load(tmp_path / "p", lm).kind == "soup"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mix": "stew"}, r"policy\.json: mix: unknown value 'stew'; expected one of: base, soup"),
        ({"objectives": 3}, r"policy\.json: objectives: "),
        ({"base": "other", "weights": "other"}, "p: made for the base model .* has other weights"),
        ({"base": "other", "weights": ""}, "p: made for the base model "),
        ({"base": "other"}, "adapter-0: trained on base model .*, but the model in use is other"),
        ({"name": None}, r"policy\.json: name: "),
        ({"dtype": "int8"}, r"policy\.json: dtype: "),
        ({"adapters": -1}, r"policy\.json: adapters must be at least 0, got -1"),
        (
            {"mix": "conditioned", "adapters": 0},
            r"policy\.json: adapters: 0; a policy of the kind conditioned has one",
        ),
        (
            {"mix": "mod", "mixing": {"candidates": 10**9}},
            r"policy\.json: .*candidates must be .*at most 1024, got 1000000000",
        ),
        ({"mix": "mod", "mixing": {"candles": 2}}, r"unknown key mixing.candles; .*save the policy again"),
        ({"mix": "mod", "mixing": {"alpha": "x"}}, r"policy\.json: mixing.alpha: "),
    ],
)
def test_a_wrong_file_ends_in_one_error_with_file_and_key(
    policies: dict[str, Policy], tmp_path: Path, change: dict[str, object], message: str
) -> None:
    policies["soup"].save(tmp_path / "p")
    file = tmp_path / "p/policy.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ModelError, match=message):
        Policy.load(tmp_path / "p", policies["soup"].lm)
    with pytest.raises(ModelError, match=r"no policy\.json"):
        Policy.load(tmp_path / "q", policies["soup"].lm)


def test_rows_need_a_preference_each(policies: dict[str, Policy]) -> None:
    for policy in policies.values():
        with pytest.raises(
            PreferenceError, match="2 prompts and 1 preferences; expected one preference per prompt"
        ):
            policy.generate(PROMPTS, GRID[:1])


# Policies that compute the same at different preferences


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "base"])
def test_a_policy_that_follows_the_preference_computes_something_else_at_each(
    policies: dict[str, Policy], kind: str
) -> None:
    fine = preference_grid(OBJECTIVES, 10)
    assert alike(policies[kind], fine) == [], "also where one anchor serves several of them"


def test_what_is_alike_is_seen_through_gates_and_exponents(lm: LanguageModel) -> None:
    one, other = (random_adapter(lm.model, seed=seed, base=lm.fingerprint) for seed in (1, 2))
    nothing = replace(one, factors={path: (torch.zeros_like(U), V) for path, (U, V) in one.factors.items()})
    fine, everywhere = preference_grid(OBJECTIVES, 10), [preference_grid(OBJECTIVES, 10)]
    assert alike(Policy.base(lm, OBJECTIVES), fine) == everywhere
    assert alike(Policy.soup("soup", lm, OBJECTIVES, [one, one]), fine) == everywhere
    assert alike(Policy.soup("soup", lm, OBJECTIVES, [nothing, nothing]), fine) == everywhere
    assert alike(Policy.soup("soup", lm, OBJECTIVES, [one, nothing]), fine) == []
    assert alike(Policy.mod("mod", lm, OBJECTIVES, [one, one]), fine) == everywhere
    assert alike(Policy.mod("mod", lm, OBJECTIVES, [one, other]), fine) == []
    blind = stack([one, nothing, nothing])  # Panacea whose blocks for the preference stayed at 0
    assert alike(Policy.conditioned("panacea", lm, OBJECTIVES, blind), fine) == everywhere
    assert alike(Policy.conditioned("panacea", lm, OBJECTIVES, stack([one, nothing, other])), fine) == []
    anchors = Policy.anchors("anchors", lm, OBJECTIVES, [one, other, one], GRID)
    assert alike(anchors, fine) == [[GRID[0], GRID[2]]]
    assert alike(anchors, GRID[:1]) == []
