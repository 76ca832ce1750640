"""The server's OpenAPI schema, fuzzed: whatever fits it, and whatever does not, never ends in a 5xx."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error

from paretune.serving.http.app import make_app
from paretune.serving.service import Service
from support.serve_world import FakeBackend, fake_service, live

schema = schemathesis.openapi.from_dict(make_app(Service(FakeBackend(), None)).openapi())


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with live(fake_service(tmp_path_factory.mktemp("store"))) as found:
        yield found


@schema.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_request_is_a_server_error(case: schemathesis.Case, address: str) -> None:
    response = case.call(base_url=address, timeout=20)
    case.validate_response(response, checks=[not_a_server_error])
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
