"""The databases of a store: an SQLite file, and a PostgreSQL server where its programs are installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from paretune.serving.store.store import Store
    from support import postgres


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Server]:
    from support import postgres

    if not postgres.binary("initdb") or not postgres.binary("postgres"):
        pytest.skip(postgres.MISSING)
    with postgres.server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database that does not hold a store yet."""
    if request.param == "sqlite":
        yield str(tmp_path / "store.sqlite")
        return
    with request.getfixturevalue("server").borrowed() as borrowed:
        yield borrowed


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    from paretune.serving.store.store import Store

    opened = Store.open(url)
    yield opened
    opened.close()
