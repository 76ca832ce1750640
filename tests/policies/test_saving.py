"""Policies and exports on the disk never take the place of files of the user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from paretune.core.errors import ConfigError, ModelError, ParetuneError
from paretune.core.preference import Preference, preference_grid
from paretune.models.adapter import Adapter, to_peft
from paretune.models.language_model import LanguageModel, load
from paretune.policies.catalogue import exported
from paretune.policies.export import export, export_grid
from paretune.policies.policy import Policy
from paretune.policies.policy_file import PolicyFile
from support.world import write_model


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(str(write_model(tmp_path_factory.mktemp("model"))), "float32", "cpu")


def adapter(lm: LanguageModel, seed: int) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        f"model.layers.{n}.self_attn.o_proj": tuple(
            torch.randn(64, 64, generator=generator)[:, :2] for _ in "UV"
        )
        for n in range(2)
    }
    return Adapter({path: (U, V.T.contiguous()) for path, (U, V) in factors.items()}, 0.1, lm.fingerprint)


@pytest.fixture
def policy(lm: LanguageModel) -> Policy:
    return Policy.soup("soup", lm, ["short", "good"], [adapter(lm, 0), adapter(lm, 1)])


HALF = Preference.parse("short=0.5,good=0.5")
WAYS = {
    "save": lambda policy, folder: policy.save(folder),
    "lora": lambda policy, folder: export(policy, HALF, folder),
    "dense": lambda policy, folder: export(policy, HALF, folder, "dense"),
    "adapter": lambda policy, folder: policy.adapters[0].save(folder),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_with_files_of_the_user_is_refused(policy: Policy, tmp_path: Path, way: str) -> None:
    names = [
        "thesis.tex",
        "config.json",
        "README.md",
        "adapter_config.json",
        "policy.json",
        "adapter-0/notes.md",
    ]
    for number, name in enumerate(names):
        own = tmp_path / str(number) / name
        own.parent.mkdir(parents=True)
        own.write_text("{}")
        with pytest.raises(ModelError, match="holds other files"):
            WAYS[way](policy, tmp_path / str(number))
        assert own.read_text() == "{}"


@pytest.mark.parametrize("way", WAYS)
def test_an_older_one_is_replaced_unless_the_user_put_a_file_into_it(
    policy: Policy, tmp_path: Path, way: str
) -> None:
    other = Policy.soup("other", policy.lm, policy.objectives, policy.adapters[::-1])
    WAYS[way](policy, tmp_path / "out")
    before = {path.name for path in (tmp_path / "out").rglob("*")}
    WAYS[way](other, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").rglob("*")} == before
    (tmp_path / "out" / "notes.md").write_text("mine")
    with pytest.raises(ModelError, match=r"notes\.md"):
        WAYS[way](policy, tmp_path / "out")


def test_a_model_or_lora_of_another_program_is_not_replaced(policy: Policy, tmp_path: Path) -> None:
    policy.lm.model.save_pretrained(tmp_path / "model")
    to_peft(policy.adapters[0], tmp_path / "lora")
    (tmp_path / "lora" / "paretune.json").unlink()
    for folder, form in (("model", "dense"), ("lora", "lora")):
        with pytest.raises(ModelError, match="holds other files"):
            export(policy, HALF, tmp_path / folder, form)  # type: ignore[arg-type]


def test_the_same_policy_is_not_written_again(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "soup")
    before = (tmp_path / "soup").stat().st_ino
    policy.save(tmp_path / "soup")
    assert (tmp_path / "soup").stat().st_ino == before


def test_a_grid_is_whole_or_not_there(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import paretune.policies.export as module

    real, calls = module.export, []

    def failing(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "export", failing)
    points = preference_grid(policy.objectives, 4)
    with pytest.raises(KeyboardInterrupt):
        export_grid(policy, points, tmp_path / "grid")
    assert not list(tmp_path.iterdir())
    export_grid(policy, points, tmp_path / "grid")
    assert len(exported(tmp_path / "grid")[1]) == 5
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; give a new folder"):
        export_grid(policy, points, tmp_path / "file")


def test_neighbours_on_a_fine_grid_have_names_of_their_own(policy: Policy, tmp_path: Path) -> None:
    points = [Preference.of({"short": w, "good": 1 - w}) for w in (0.5, 0.5001, 0.5002)]
    assert len(export_grid(policy, points, tmp_path / "grid")["adapters"]) == 3


def test_an_objective_that_leads_elsewhere_does_not_lead_a_lora_there(
    lm: LanguageModel, tmp_path: Path
) -> None:
    bad = Policy.soup("soup", lm, ["../short", "good"], [adapter(lm, 0), adapter(lm, 1)])
    export_grid(bad, preference_grid(bad.objectives, 2), tmp_path / "grid")
    assert [path.name for path in tmp_path.iterdir()] == ["grid"]
    assert all(path.is_dir() or path.name == "manifest.json" for path in (tmp_path / "grid").iterdir())


@pytest.mark.parametrize(
    "entries",
    [
        None,
        3,
        {"../y": {"preference": {"x": 1}}},
        {"y": {"preference": {"z": 1}}},
        {"y": {"preference": {"x": "1"}}},
        {"y": {"preference": {"x": 1}, "scores": {"z": {"mean": 1, "low": 1, "high": 1}}}},
        {"y": {"preference": {"x": 1}, "scores": {"x": {"mean": 1}}}},
    ],
)
def test_a_manifest_of_another_form_is_named(tmp_path: Path, entries: object) -> None:
    facts = {"policy": "a", "base_model": "b", "objectives": ["x"], "adapters": entries}
    (tmp_path / "manifest.json").write_text(json.dumps(facts if entries else entries))
    with pytest.raises(ModelError, match=r"manifest\.json.*export them again with --grid"):
        exported(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objectives": ["good", "good"]}, r"objective 'good' is listed twice"),
        ({"objectives": []}, "objective"),
        ({"mix": "sauce"}, r"mix: unknown value 'sauce'; expected one of: base, soup"),
        ({"adapters": -1}, r"adapters must be at least 0, got -1"),
        ({"adapters": ["../../etc"]}, r"adapters: expected a whole number"),
        ({"mix": "anchors", "anchors": [{"short": 1.0, "kind": 0.0}]}, r"kind"),
        ({"mix": "anchors", "anchors": [{"short": 0.9, "good": 0.9}]}, r"sum to 1\.8"),
        (None, r"the whole file: expected an object, but it is"),
    ],
)
def test_a_policy_file_that_cannot_be_is_named_in_words(
    policy: Policy, tmp_path: Path, values: dict[str, object] | None, message: str
) -> None:
    policy.save(tmp_path / "p")
    file = tmp_path / "p/policy.json"
    file.write_text(json.dumps([] if values is None else json.loads(file.read_text()) | values))
    with pytest.raises(ParetuneError, match=message) as refusal:
        PolicyFile.read(tmp_path / "p")
    assert str(refusal.value).startswith(str(file)) and "Input should" not in str(refusal.value)
