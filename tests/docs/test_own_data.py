"""The commands of the page on own data, read from the page and run in its order: from files of a shop to a served dial."""

from __future__ import annotations

import csv
import json
import random
import re
import shlex
from pathlib import Path

import httpx
import pytest

from paretune.core.files import read_json
from paretune.planning import calibrate
from paretune.planning.devices import Rates
from support.chat_models import CHATML, write_chat_model
from support.command import call
from support.server_process import process

WHOLE = (Path(__file__).parents[2] / "docs/own-data.md").read_text(encoding="utf-8")
PAGE, _, _ = WHOLE.partition("## How this page was tried")
"""What a reader does; the commands of the last section are those of somebody who tried it."""
SMALL = (
    *("dtype=float32", "device=cpu", "train.steps=1", "train.batch_pairs=2", "preferences=2"),
    *("sampling.max_new_tokens=8", "evaluate.prompts=4", "evaluate.resamples=20"),
)
"""What makes a run of the page tiny, as the page says: settings on the command line."""
ADDRESS = "http://127.0.0.1:8000"
WARM = (
    "Oh dear, that is annoying!",
    "I am so sorry to hear that!",
    "Thank you for telling us!",
    "What a pity!",
)
SHORT = ("Send it back.", "Replace the seal.", "Reset it twice.", "Charge it overnight.")
THINGS = ("kettle", "lamp", "chair", "drill", "radio", "toaster", "fan", "clock", "scale", "heater")


def commands() -> list[list[str]]:
    """Return the words of each command that stands by itself on the page, without comments."""
    text = re.sub(r"\\\n\s*", " ", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))
    return [shlex.split(line, comments=True) for line in re.findall(r"^    (\S.*)$", text, re.MULTILINE)]


def written(name: str) -> str:
    """Return the file of this name as the page has it."""
    (found,) = re.findall(rf"```yaml\n(# {re.escape(name)}\n.*?)```", PAGE, re.DOTALL)
    return found


def write_shop(folder: Path) -> None:
    """Write tickets with two replies each, a warm one and a brief one, in every form that the page names."""
    draw = random.Random(0)
    pairs: dict[str, list[dict[str, str]]] = {"friendly": [], "brief": []}
    scored = []
    for n in range(140):
        ticket = f"My {draw.choice(THINGS)} number {n} {draw.choice(('leaks', 'hums', 'broke', 'smells'))}."
        warm, short = f"{draw.choice(WARM)} {draw.choice(SHORT)}", draw.choice(SHORT)
        pairs["friendly"].append({"prompt": ticket, "chosen": warm, "rejected": short})
        pairs["brief"].append({"prompt": ticket, "chosen": short, "rejected": warm})
        lengths = [-len(warm.split()), -len(short.split())]
        scored.append(
            {"instruction": ticket, "generations": [warm, short], "friendly": [3, 0], "brief": lengths}
        )
    files = {
        "friendly": pairs["friendly"],
        "brief": pairs["brief"],
        "a": pairs["friendly"],
        "support": scored,
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("columns.yaml", "reviews.yaml"):
        (folder / name).write_text(written(name))
    (head,) = re.findall(r"^path: reviews\.csv +# (.*)$", PAGE, re.MULTILINE)
    rows = zip(pairs["friendly"], "ABCDE" * len(scored), strict=False)
    with (folder / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(head.split(","))
        for n, (pair, rater) in enumerate(rows):
            sheet.writerow([n, pair["prompt"], pair["chosen"], pair["rejected"], "A", "B", rater])
    (folder / "b.yaml").write_text("path: brief.jsonl\nprompt: prompt\nchosen: chosen\nrejected: rejected\n")


@pytest.mark.slow
def test_the_page_leads_from_files_to_a_served_dial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_chat_model(tmp_path / "model", CHATML, max_position_embeddings=512)
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(calibrate, "measure", lambda *_: Rates(1e11, 1e10, 1e10, 1e10, 1e-5, 1e10))
    monkeypatch.chdir(tmp_path)
    write_shop(tmp_path)

    def done(*words: str) -> str:
        code, out, err = call(monkeypatch, capsys, *words)
        assert code == 0, (words, out, err)
        return out

    steps = commands()
    kinds = ["data", "data", "init", "init", "init", "init", "plan", "run", "choose", "serve"]
    assert [words[1] for words in steps if words[0] == "paretune"] == kinds, (
        "a new command of the page: run it here"
    )
    assert [words[0] for words in steps if words[0] != "paretune"] == ["curl"]
    for words in steps[: kinds.index("init")]:
        assert "comparisons" in done(*words[1:])
    for words in (words for words in steps if words[1] == "init"):
        if "support.yaml" in words and Path("support.yaml").exists():
            code, _, err = call(monkeypatch, capsys, *words[1:])
            assert code == 2 and "is not overwritten" in err  # as the page says: the line is another way
            Path("support.yaml").unlink()
        assert "Next: paretune run" in done(*words[1:], "--model", str(model))
    (fit,) = re.findall(r"`paretune (score fit [^`]*)`", PAGE)
    assert "held-out" in done(*shlex.split(fit))

    by_init = Path("support.yaml").read_text()
    for config in (by_init, written("support.yaml")):  # the two ways of the page to have one
        Path("support.yaml").write_text(config)
        (plan,) = (words for words in steps if words[1] == "plan")
        assert "front: dpo-soup" in done(*plan[1:], f"model={model}", *SMALL)
    (start,) = (words for words in steps if words[1] == "run")
    assert "Report: runs/support/report.html" in done(*start[1:], f"model={model}", *SMALL)
    (choose,) = (words for words in steps if words[1] == "choose")
    assert "friendly" in done(*choose[1:])

    (serve,) = (words for words in steps if words[1] == "serve")
    (curl,) = (words for words in steps if words[0] == "curl")
    with process(*serve[2:]) as (_, address):
        assert "<title>" in httpx.get(f"{address}/").text
        body = json.loads(curl[curl.index("-d") + 1])
        answer = (
            httpx.post(curl[1].replace(ADDRESS, address), json=body, timeout=60).raise_for_status().json()
        )
    assert body["model"].startswith("dpo-soup@") and answer["choices"][0]["message"]["role"] == "assistant"
    assert set(read_json(tmp_path / "runs/support/front.json")["scorers"]) == {"friendly", "brief"}
    assert answer["paretune"]["preference"] == {"friendly": 0.9, "brief": 0.1}
