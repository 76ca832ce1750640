"""``paretune front``, exports and distances: what is done with adapters that are there already."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from paretune.core.errors import ModelError
from paretune.core.preference import Preference
from paretune.evaluation.token_kl import token_kl
from paretune.models.adapter import Adapter, to_peft
from paretune.models.language_model import LanguageModel
from paretune.models.targets import target_shapes
from paretune.policies.export import export
from paretune.policies.policy import Policy
from support.command import call, config_file
from support.world import make_dataset

OBJECTIVES = ("short", "good")


def random_adapter(lm: LanguageModel, seed: int) -> Adapter:
    """Return a random adapter that says nothing about its training."""
    generator = torch.Generator().manual_seed(seed)
    factors = {
        path: (torch.randn(out, 2, generator=generator), torch.randn(2, inputs, generator=generator))
        for path, (out, inputs) in target_shapes(lm.model, ["q_proj", "v_proj"]).items()
    }
    return Adapter(factors, 0.3, lm.fingerprint)


def test_distance_of_two_policies_is_the_kl_by_hand(lm: LanguageModel) -> None:
    """Mean over the response's tokens of sum_v p (log p - log q); 0 between a policy and itself."""
    members = [random_adapter(lm, seed) for seed in range(2)]
    mixed, soup = Policy.mod("mod", lm, OBJECTIVES, members), Policy.soup("soup", lm, OBJECTIVES, members)
    w, row = Preference(OBJECTIVES, (0.4, 0.6)), make_dataset(1).rows[0]
    (found,) = token_kl(mixed, soup, w, [row.prompt], row.responses[:1], [False])
    prompt, response = lm.encode_prompt(row.prompt), lm.encode_response(row.responses[0])
    p, q = (policy.distribution(prompt, response, w).double().numpy() for policy in (mixed, soup))
    assert found == pytest.approx(float(np.mean((np.exp(p) * (p - q)).sum(-1))), rel=1e-4) and found > 0
    assert token_kl(soup, soup, w, [row.prompt], row.responses[:1], [False])[0] == 0


def test_a_mixture_is_not_exported(lm: LanguageModel, tmp_path: Path) -> None:
    policy = Policy.mod("mod", lm, OBJECTIVES, [random_adapter(lm, seed) for seed in range(2)])
    with pytest.raises(ModelError, match="no single update does; export the soup"):
        export(policy, Preference.uniform(OBJECTIVES), tmp_path / "lora")


@pytest.mark.slow
def test_the_front_of_given_adapters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, lm: LanguageModel
) -> None:
    """Adapters of any maker, one an objective, are measured as a soup and by MOD, with the distance between the two."""
    data = tmp_path / "data.jsonl"
    make_dataset(20).write(data)
    config = config_file(
        tmp_path,
        json.dumps(
            {
                "folder": str(tmp_path / "run"),
                "model": lm.name,
                "dtype": "float32",
                "device": "cpu",
                "data": {"source": str(data)},
                "score": [
                    {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"},
                    {"objective": "good", "rule": "regex", "pattern": "good|kind", "how": "count"},
                ],
                "preferences": 3,
                "sampling": {"max_new_tokens": 4},
                "evaluate": {"prompts": 2, "resamples": 100},
            }
        ),
    )
    random_adapter(lm, 0).save(tmp_path / "short")
    to_peft(random_adapter(lm, 1), tmp_path / "good")
    given = ["--adapter", f"short={tmp_path / 'short'}", "--adapter", f"good={tmp_path / 'good'}"]
    code, out, err = call(monkeypatch, capsys, "front", config, *given)
    assert code == 0, err
    facts = json.loads((tmp_path / "run/front.json").read_text())
    assert [policy["name"] for policy in facts["policies"]] == ["soup", "mod"]
    assert [each["value"] > 0 for each in facts["policies"][1]["soup_kl"]] == [False, True, False]
    for arguments, message in (
        (given[:2], "expected one for each of the objectives short, good"),
        ([*given, "--by", "salad"], "expected soup or mod"),
        (["--adapter", "short"], "expected OBJECTIVE=FOLDER"),
        (["--adapter", f"short={tmp_path}"], "no adapter; expected a folder with adapter.json"),
        ([*given, "--divergence", "kl"], "divergence 'kl'; expected one of"),
    ):
        code, out, err = call(monkeypatch, capsys, "front", config, *arguments)
        assert code == 2 and message in err and "Traceback" not in out + err
