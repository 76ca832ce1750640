"""A run folder: whose it is, who works in it, and what is found in it after a kill or damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from paretune.core.errors import ConfigError, ModelError, ParetuneError
from paretune.core.files import read_json, write_json
from paretune.core.run_lock import working_in
from paretune.core.swap import is_holder
from paretune.runs import measure
from paretune.runs.extend import settings_of
from paretune.runs.parse import parse_config
from paretune.runs.run import run
from support.world import make_dataset, write_model


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_dataset(30).select([]).write(folder / "data.jsonl")
    write_model(folder / "model")
    run(parse_config(settings(folder)))
    return folder


def settings(world: Path, /, **changes: Any) -> dict[str, Any]:
    return {
        "folder": str(world / "run"),
        "model": str(world / "model"),
        "dtype": "float32",
        "device": "cpu",
        "data": {"source": str(world / "data.jsonl")},
        "score": [
            {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"},
            {"objective": "good", "rule": "regex", "pattern": "good"},
        ],
        "methods": {"dpo-soup": {"beta": 0.5}},
        "preferences": 3,
        "train": {"steps": 2, "batch_pairs": 2, "rank": 2},
        "sampling": {"max_new_tokens": 4, "batch_size": 64},
        "evaluate": {"prompts": 3, "preferences": 3, "resamples": 50},
        **changes,
    }


@pytest.fixture
def again(world: Path, tmp_path: Path) -> Path:
    """Return a copy of a finished run."""
    return Path(shutil.copytree(world / "run", tmp_path / "run"))


def front(folder: Path) -> Any:
    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                k: bare(v)
                for k, v in value.items()
                if k not in ("seconds", "spent", "stages", "rest", "created", "scoring_forwards")
            }
        return [bare(each) for each in value] if isinstance(value, list) else value

    return bare(json.loads((folder / "front.json").read_text()))


@pytest.mark.parametrize(
    "pattern", ["adapters/*/history.json", "adapters/*/adapter/*.safetensors", "fronts/*.json"]
)
@pytest.mark.slow
def test_a_finished_file_that_is_deleted_is_made_again(world: Path, again: Path, pattern: str) -> None:
    sorted(again.glob(pattern))[0].unlink()
    run(parse_config(settings(world, folder=str(again))))
    assert front(again) == front(world / "run")


@pytest.mark.parametrize("text", ["{}", "[]", "null", "{", "[" * 3000, '{"scores": [[[1]]]}', "3"])
@pytest.mark.parametrize("pattern", ["fronts/*.json", "adapters/*/history.json", "adapters/*/stage.json"])
@pytest.mark.slow
def test_a_file_of_another_form_is_named_with_a_cure(
    world: Path, again: Path, pattern: str, text: str
) -> None:
    file = sorted(again.glob(pattern))[0]
    file.write_text(text)
    if file.name == "history.json" and text == "[]":
        return  # an empty list of records is one
    with pytest.raises(ParetuneError, match=rf"{file.name}: .*; delete the (file|folder.*) to have"):
        run(parse_config(settings(world, folder=str(again))))


def test_points_of_a_batch_count_only_together(world: Path, again: Path) -> None:
    """After a kill between two of them the rest would be judged in a smaller batch, and rounded otherwise."""
    files = sorted(again.glob("fronts/*.json"))
    batch = next(b for f in files if len(b := json.loads(f.read_text())["together"]) > 1)
    paths = {name: again / "fronts" / name for name in batch}
    judged = json.loads(paths[batch[0]].read_text())
    shape = (len(judged["scores"]), len(judged["scores"][0]), 2)
    assert set(measure.stored_points(paths, shape)) == set(batch)
    paths[batch[-1]].unlink()
    assert measure.stored_points(paths, shape) == {}
    run(parse_config(settings(world, folder=str(again))))
    assert front(again) == front(world / "run")


def test_what_a_killed_run_left_is_gone_after_the_next(world: Path, again: Path) -> None:
    from paretune.core.owners import this_process

    owner = this_process()
    left = again / "adapters" / f".dpo-warm.paretune-{owner.host}-{owner.pid}-{owner.started - 100}-abcdefgh"
    left.mkdir()
    run(parse_config(settings(world, folder=str(again))))
    assert not [path for path in again.rglob(".*") if is_holder(path.name)]


def test_what_stages_spent_adds_up_to_what_the_process_spent(world: Path) -> None:
    profile = read_json(world / "run/stages.json")
    stages = {stage["name"]: stage for stage in profile["stages"]}
    assert list(stages) == [
        *("start", "score", "adapters/dpo-short", "adapters/dpo-good"),
        *("front/base", "front/corners", "front/dpo-soup", "report"),
    ]
    parts = [profile["rest"], *(stage for stage in stages.values() if not stage["reused"])]
    for figure in ("seconds", "cpu_seconds", "tokens_read", "tokens_sampled"):
        assert sum(part[figure] for part in parts) == pytest.approx(profile["total"][figure]), figure
    for name, stage in stages.items():
        assert (stage["tokens_sampled"] > 0) == name.startswith("front/"), name
        assert not name.startswith(("adapters/", "front/")) or stage["tokens_read"] > 0, name
        assert 0 < stage["peak_bytes"] <= profile["total"]["peak_bytes"]
    trained = read_json(world / "run/adapters/dpo-good/history.json")
    assert stages["adapters/dpo-good"]["tokens_read"] >= sum(record["tokens"] for record in trained) > 0
    answers = [json.loads(file.read_text()) for file in (world / "run/fronts").glob("*.json")]
    assert profile["total"]["tokens_sampled"] == sum(sum(map(sum, each["lengths"])) for each in answers)


def test_stages_found_finished_keep_what_they_spent(world: Path, again: Path) -> None:
    marker = next(again.glob("adapters/dpo-short/stage.json"))
    kept = read_json(marker)
    write_json(marker, {name: value for name, value in kept.items() if name != "spent"})
    run(parse_config(settings(world, folder=str(again))))
    before, after = (read_json(folder / "stages.json") for folder in (world / "run", again))
    assert [stage["name"] for stage in after["stages"]] == [stage["name"] for stage in before["stages"]]
    for old, new in zip(before["stages"], after["stages"], strict=True):
        if not new["reused"]:
            assert new["name"] in ("start", "score", "report")
        elif new["name"] == "adapters/dpo-short":  # as of an earlier version
            assert new == dict.fromkeys(new) | {
                "name": new["name"],
                "seconds": old["seconds"],
                "reused": True,
            }
        elif new["name"].startswith("adapters/"):
            assert new == old | {"reused": True}
        else:
            for figure in ("tokens_read", "tokens_sampled", "peak_bytes"):
                assert new[figure] == old[figure] or old["reused"], (new["name"], figure)
            assert 0 < new["seconds"] <= old["seconds"] or old["reused"]
    record = read_json(again / "front.json")
    unknown = {stage["name"] for stage in record["stages"] if stage["spent"] is None}
    assert unknown == {"adapters/dpo-short"} and all(stage["reused"] for stage in record["stages"])
    assert 0 <= record["rest"]["seconds"] <= after["total"]["seconds"]
    assert after["total"]["tokens_sampled"] == 0


def test_a_finished_policy_is_left_alone(world: Path, again: Path) -> None:
    (again / "policies/dpo-soup/notes.md").write_text("mine")
    before = (again / "policies/dpo-soup").stat().st_ino
    run(parse_config(settings(world, folder=str(again))))
    assert (again / "policies/dpo-soup").stat().st_ino == before


def test_two_runs_do_not_work_in_one_folder(world: Path, again: Path) -> None:
    with working_in(again), pytest.raises(ParetuneError, match="works in this run folder, since"):
        run(parse_config(settings(world, folder=str(again))))


@pytest.mark.parametrize("name", ["README.md", "config.yaml", "front.json"])
def test_a_folder_of_the_user_is_no_run_folder(world: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=rf"holds {name}, and is no run's folder"):
        run(parse_config(settings(world, folder=str(tmp_path))))
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"


def test_a_policy_folder_of_the_user_is_refused_before_training(world: Path, tmp_path: Path) -> None:
    own = tmp_path / "policies" / "dpo-soup" / "thesis.tex"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(ModelError, match=r"thesis\.tex"):
        run(parse_config(settings(world, folder=str(tmp_path))))
    assert own.read_text() == "mine" and not (tmp_path / "adapters").exists()


@pytest.mark.parametrize("bad", ["../../../victim", "a/b", "..", "a\0b", "x" * 300])
def test_names_that_lead_elsewhere_are_refused_with_the_config(world: Path, bad: str) -> None:
    scorer = {"objective": bad, "rule": "length"}
    for changes in ({"objectives": [bad, "good"]}, {"score": [scorer]}, {"folder": "", "name": bad}):
        with pytest.raises(ConfigError, match=r"choose another name|no name that a file can have"):
            parse_config(settings(world, **changes))


@pytest.mark.parametrize("text", ["", "null", "[]", "text", "{}", "train: 3", "train: {"])
def test_a_config_that_is_lost_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml: .*; run its config once more with `paretune run`"):
        settings_of(tmp_path)


def test_a_config_over_other_objectives_is_refused_in_the_folder_of_a_run(world: Path, again: Path) -> None:
    other = [
        {"objective": "short", "rule": "length", "direction": "lower"},
        {"objective": "red", "rule": "regex", "pattern": "red"},
    ]
    before = (again / "config.yaml").read_bytes()
    with pytest.raises(
        ConfigError, match=r"holds another run \(its front is over good, short\).* over red, short; give it a"
    ):
        run(parse_config(settings(world, folder=str(again), score=other)))
    assert (again / "config.yaml").read_bytes() == before
    # One objective more is the same run, but not beside a policy that would go on being served without it.
    third = [*settings(world)["score"], other[1]]
    with pytest.raises(ConfigError, match=r"its policy dpo-soup is over good, short"):
        run(parse_config(settings(world, folder=str(again), score=third, methods={"mod": {}})))


@pytest.mark.slow
def test_the_config_in_the_folder_is_that_of_its_front_until_there_is_another_front(
    world: Path, again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (again / "config.yaml").read_bytes()
    changed = parse_config(settings(world, folder=str(again), sampling={"max_new_tokens": 3}))

    def stop(*arguments: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(measure, "judge", stop)
        with pytest.raises(KeyboardInterrupt):
            run(changed)
    assert (again / "config.yaml").read_bytes() == before
    run(changed)
    assert settings_of(again)["sampling"]["max_new_tokens"] == 3
