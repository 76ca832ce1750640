"""A model hub in a folder, at the one place where the library asks the hub; it keeps what was fetched as the hub's cache does."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from huggingface_hub.utils import LocalEntryNotFoundError, filter_repo_objects


@dataclass
class FakeHub:
    """What of `huggingface_hub.HfApi` the library uses; repositories are folders below ``root``.

    Attributes:
        root: Folder with the repositories, ``owner/name/COMMIT``, and the cache.
        branches: (repository, branch) -> commit.
        private: Repository -> whether it was made a private one.
        kinds: Repository -> ``model`` or ``dataset``.
    """

    root: Path
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    made: int = 0

    def commit(self, name: str, folder: Path, branch: str = "main") -> str:
        """Make a commit of all files in a folder, and return it."""
        self.made += 1
        commit = hashlib.sha1(f"{name}{self.made}".encode()).hexdigest()
        shutil.copytree(folder, self.root / "repos" / name / commit)
        self.branches[name, branch] = commit
        return commit

    def files(self, name: str, branch: str = "main") -> dict[str, Path]:
        folder = self.root / "repos" / name / self.branches[name, branch]
        return {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}

    def snapshot_download(
        self,
        name: str,
        *,
        revision: str | None,
        allow_patterns: list[str],
        ignore_patterns: list[str] | None,
        local_files_only: bool,
    ) -> str:
        assert not local_files_only
        commit = self.branches.get((name, revision or "main"), revision or "")
        source = self.root / "repos" / name / commit
        if not commit or not source.is_dir():
            raise LocalEntryNotFoundError(f"Repository Not Found: {name} at {revision}")
        target = self.root / "cache" / f"models--{name.replace('/', '--')}" / "snapshots" / commit
        target.mkdir(parents=True, exist_ok=True)
        paths = [str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()]
        for path in filter_repo_objects(
            paths, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, target / path)
        return str(target)

    def create_repo(self, name: str, *, private: bool, exist_ok: bool, repo_type: str) -> str:
        assert exist_ok
        self.kinds[name] = repo_type
        self.private.setdefault(name, private)
        return f"https://hub.test/{name}"

    def create_branch(self, name: str, *, branch: str, exist_ok: bool, repo_type: str) -> None:
        assert exist_ok and repo_type == self.kinds[name]
        self.branches.setdefault((name, branch), self.branches.get((name, "main"), ""))

    def upload_folder(
        self,
        *,
        repo_id: str,
        folder_path: Path,
        revision: str | None,
        commit_message: str,
        delete_patterns: list[str],
        repo_type: str,
    ) -> None:
        assert commit_message and repo_type == self.kinds[repo_id]
        branch, staged = revision or "main", self.root / "staged"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        before = self.branches.get((repo_id, branch))
        old = self.root / "repos" / repo_id / before if before else staged
        paths = [str(file.relative_to(old)) for file in old.rglob("*") if file.is_file()]
        for path in filter_repo_objects(paths, ignore_patterns=delete_patterns):
            (staged / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(old / path, staged / path)
        shutil.copytree(folder_path, staged, dirs_exist_ok=True)
        self.commit(repo_id, staged, branch)


def put_in(monkeypatch: pytest.MonkeyPatch, root: Path) -> FakeHub:
    """Let the library use a hub in ``root``."""
    hub = FakeHub(root)
    (root / "repos").mkdir(parents=True)
    monkeypatch.setattr("paretune.models.hub.api", lambda: hub)
    monkeypatch.setattr("paretune.policies.shared.api", lambda: hub)
    for place in ("paretune.models.hub_reach.hub", "paretune.policies.shared.hub"):
        monkeypatch.setattr(place, lambda: (True, "answers"))
    return hub
