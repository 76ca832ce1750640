"""The Python of README and pages does what the pages say, on a tiny run of the quickstart where it needs one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import yaml

from paretune import Front, Preference, load_config, load_data, load_policy, run
from paretune.policies.export import export
from support.chat_models import CHATML, write_chat_model
from support.server_process import process

ROOT = Path(__file__).parents[2]
SMALL = (
    "train.steps=1",
    "methods.panacea.train.steps=1",
    "sampling.max_new_tokens=24",
    "evaluate.prompts=3",
    "evaluate.preferences=3",
)
ELSEWHERE = {"CONTRIBUTING.md": "test_contributing.py adds each example in its place"}
"""Pages whose snippets another test runs."""


def snippets(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def execute(code: str, page: str, **names: Any) -> dict[str, Any]:
    """Run a snippet and return its names."""
    exec(compile(code, page, "exec"), names)
    return names


@pytest.fixture(scope="module", name="home")
def folder_of_a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with ``runs/quickstart``, of a random model."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("PARETUNE_CACHE", str(home / "cache"))
        model = write_chat_model(home / "model", CHATML, max_position_embeddings=1024)
        run(load_config("quickstart", [f"model={model}", "dtype=float32", *SMALL]))
    return home


@pytest.fixture(name="there")
def in_that_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    monkeypatch.setenv("PARETUNE_CACHE", str(home / "cache"))
    return home


@pytest.mark.slow
def test_the_readme_answers_at_two_preferences_in_one_batch(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = execute(snippets("README.md")[0], "README.md")
    assert len(made["answers"]) == 2
    assert "concise=0.9" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_on_choosing_finds_a_preference(there: Path) -> None:
    choice = execute(snippets("docs/choosing.md")[0], "choosing.md")["choice"]
    assert set(choice.margin) == {"warm", "concise"}


@pytest.mark.parametrize(
    ("page", "number", "names"),
    [
        ("README.md", 1, {}),
        ("docs/serving.md", 0, {}),
        ("docs/own-data.md", 0, {"friendly": "warm", "brief": "concise"}),
    ],
)
@pytest.mark.slow
def test_a_client_of_openai_gets_answers_at_its_preference(
    served: str, monkeypatch: pytest.MonkeyPatch, page: str, number: int, names: dict[str, str]
) -> None:
    code = snippets(page)[number]
    for old, new in names.items():
        code = code.replace(f"{old}=", f"{new}=")
    assert "http://127.0.0.1:8000/v1" in code
    answer = execute(code.replace("http://127.0.0.1:8000", served), page)["answer"]
    assert isinstance(answer, openai.types.chat.ChatCompletion)
    assert set(answer.paretune["expected"]) == {"concise", "warm"}  # type: ignore[attr-defined]


@pytest.fixture(scope="module", name="served")
def address_of_a_server(home: Path) -> Any:
    with process(home / "runs/quickstart") as (_, address):
        yield address


def test_the_page_on_statistics_compares_fronts() -> None:
    random = np.random.default_rng(0)
    weights = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])

    def front(name: str, rows: np.ndarray = weights) -> Front:
        scores = random.normal((-4, 1), 1, (len(rows), 20, 2))
        return Front(name, ("concise", "warm"), rows, scores, tuple(map(str, range(20))))

    names = {
        name: front("one" if name.startswith("run") else name)
        for name in ("policy", "base", "other", "run1", "run2", "run3")
    }
    made = execute(
        snippets("docs/statistics.md")[0], "statistics.md", corners=front("corners", np.eye(2)), **names
    )
    assert made["found"].verdict


def test_the_page_on_votes_keeps_a_vote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = execute(snippets("docs/votes.md")[0], "votes.md")["store"]
    assert len(store.votes("ann")) == 1


def test_the_page_on_data_has_a_scorer_that_scores() -> None:
    politeness = execute(snippets("docs/data.md")[0], "data.md")["politeness"]
    assert politeness([[], []], ["Please, please", "No"]) == [2.0, 0.0]


def test_the_page_on_sharing_loads_a_policy_from_three_places(there: Path) -> None:
    code = snippets("docs/sharing.md")[0].replace('"policies/', '"runs/quickstart/policies/')
    policy = execute(code.replace("/models/smollm2", str(there / "model")), "sharing.md")["policy"]
    assert policy.lm.model.dtype.is_floating_point and policy.objectives == ("concise", "warm")


def test_the_page_on_sharing_exports_for_peft_and_reads_a_data_set(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy("runs/quickstart/policies/dpo-soup")
    export(policy, Preference.uniform(policy.objectives), tmp_path / "OUT", "lora")
    monkeypatch.chdir(tmp_path)
    assert execute(snippets("docs/sharing.md")[1], "sharing.md")["model"].peft_config
    assert len(execute(snippets("docs/sharing.md")[2], "sharing.md")["data"].rows) == 1
    assert (tmp_path / "warm.jsonl").is_file()


def test_the_page_on_runs_as_data_has_frames_and_judges_a_table(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = execute(snippets("docs/runs-as-data.md")[0], "runs-as-data.md")
    assert all(len(made[name]) for name in ("points", "answers", "figures"))
    assert len(made["tests"]) == len(made["record"].comparisons)
    execute(snippets("docs/runs-as-data.md")[1], "runs-as-data.md")
    assert "ours is above theirs" in capsys.readouterr().out


def test_the_questions_have_a_check_that_holds() -> None:
    execute(snippets("docs/faq.md")[0], "faq.md")


def test_no_page_has_python_that_nothing_runs() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    own = Path(__file__).read_text(encoding="utf-8")
    for page in pages:
        name = page.relative_to(ROOT).as_posix()
        if name in ELSEWHERE:
            continue
        for number in range(len(snippets(name))):
            assert f'snippets("{name}")[{number}]' in own or f'("{name}", {number}, ' in own, (name, number)


def test_the_spreadsheet_of_own_data_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs/own-data.md").read_text(encoding="utf-8")
    text = next(
        block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "reviews.csv" in block
    )
    header = next(line for line in text.splitlines() if line.startswith("path:")).partition("# ")[2]
    monkeypatch.chdir(tmp_path)
    rows = ['1,Why?,No.,"It is late, sorry.",B,a ,r1', '2,When?,Now.,"As soon as I can.",n/a,,r2']
    Path("reviews.csv").write_text("\n".join([header, *rows]), encoding="utf-8-sig")
    data = load_data(yaml.safe_load(text))
    assert data.objectives == ("kind", "to_the_point")
    assert [row.labels for row in data.rows] == [
        {"kind": ((0, 1, -1.0),), "to_the_point": ((0, 1, 1.0),)},
        {},
    ]
