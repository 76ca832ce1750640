"""The server behind a proxy: its root path, and whose pages may call it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from paretune.core.errors import ConfigError
from paretune.serving.address import Address, Keys
from support.serve_world import fake_service, live

KEY = "a-key-of-more-than-sixteen-characters"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    at = Address(port=0, public_url="https://example.org/steer", allow_hosts=("lan.example",))
    with live(fake_service(tmp_path_factory.mktemp("store")), at) as found:
        yield found


@pytest.mark.parametrize("root", ["", "/steer"])
def test_a_proxy_may_pass_the_root_path_on_or_leave_it_out(address: str, root: str) -> None:
    for path in ("/", "/studio/studio.js", "/api/front", "/v1/models", "/health"):
        assert httpx.get(address + root + path).status_code == 200
    assert httpx.get(f"{address}{root}/openapi.json").json()["servers"] == [{"url": "/steer"}]
    redirected = httpx.get(f"{address}/steer")
    assert redirected.status_code == 307 and redirected.headers["location"] == "/steer/"
    assert httpx.get(f"{address}/steering/api/front").status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "example.org", "origin": "https://example.org"}, 200),
        (
            {"host": "lan.example", "origin": "http://lan.example:8080"},
            200,
        ),  # nginx: Host $host leaves the port out
        ({"host": "lan.example:8080", "origin": "http://lan.example:8080"}, 200),  # Host $http_host
        (
            {"origin": "http://lan.example:8080"},
            200,
        ),  # proxy_pass alone: the Host is that of the server itself
        ({"origin": "http://localhost:8080", "host": "localhost"}, 200),
        ({"origin": "http://10.0.0.5:8080", "x-forwarded-host": "10.0.0.5:8080"}, 200),
        ({"origin": "http://10.0.0.5:8080", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://10.0.0.5:8080"}, 403),
        ({"origin": "http://localhost:8080", "sec-fetch-site": "same-site"}, 403),
        ({"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "x://example.org"}, 403),
        ({"origin": "https://example.org@evil.example"}, 403),
        ({"origin": "https://example.org.evil.example"}, 403),
        ({"host": "evil.example"}, 403),
    ],
)
def test_pages_of_this_server_may_call_it_and_others_may_not(
    address: str, headers: dict, status: int
) -> None:
    response = httpx.post(f"{address}/api/elicit/next", json={}, headers=headers)
    assert response.status_code == status, response.text


def test_the_scheme_of_an_origin_is_one_of_the_web(address: str) -> None:
    host = address.removeprefix("http://")
    assert httpx.get(f"{address}/v1/models", headers={"origin": f"http://{host}"}).status_code == 200
    assert httpx.get(f"{address}/v1/models", headers={"origin": f"x://{host}"}).status_code == 403


def test_the_page_loads_whatever_the_proxy_says_and_a_refusal_names_the_cure(address: str) -> None:
    headers = {"origin": "http://10.0.0.5:8080"}
    assert httpx.get(f"{address}/studio/studio.js", headers=headers).status_code == 200
    refused = httpx.post(f"{address}/api/elicit/next", json={}, headers=headers)
    assert "--public-url" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"public_url": "example.org"}, "--public-url example.org: expected an address"),
        ({"public_url": "https://example.org/?a=1"}, "expected an address"),
        ({"root_path": "/a b"}, "--root-path /a b: expected a path"),
        ({"log_level": "loud"}, "--log-level loud: expected one of debug"),
        ({"log_format": "xml"}, "--log-format xml: expected one of text, json"),
    ],
)
def test_settings_that_cannot_be_are_told(options: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Address(**options)


@pytest.mark.parametrize("root", ["steer", "/steer/", "/steer"])
def test_a_root_path_is_written_in_any_way(root: str) -> None:
    assert Address(root_path=root).root_path == "/steer"


def test_a_line_of_text_has_the_time_and_the_level_that_is_asked_for_holds() -> None:
    import logging

    from paretune.serving.http.logs import logging_config

    config = logging_config("warning", "text")
    record = logging.LogRecord("paretune.serving.requests", logging.INFO, "", 1, "anna GET /", None, None)
    line = logging.Formatter(config["formatters"]["line"]["format"]).format(record)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO +anna GET /", line)
    assert {logger["level"] for logger in config["loggers"].values()} == {"WARNING"}


def test_the_log_is_one_object_a_line_and_names_the_key_but_no_probe(tmp_path: Path) -> None:
    import json
    import logging

    from paretune.serving.http.logs import JsonFormatter

    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(JsonFormatter().format(record))

    log, kept = logging.getLogger("paretune.serving.requests"), Kept()
    with live(fake_service(tmp_path)) as address:
        log.setLevel(logging.INFO)
        log.addHandler(kept)
        httpx.get(f"{address}/health")
        httpx.get(f"{address}/v1/a%0ab")
    log.removeHandler(kept)
    (line,) = lines
    facts = json.loads(line)
    assert (facts["key"], facts["path"], facts["status"]) == ("anonymous", "/v1/a%0Ab", 404)
    assert facts["time"].startswith("20") and facts["seconds"] >= 0


def test_health_is_told_by_every_name_and_nothing_else_is(address: str) -> None:
    for host in ("10.1.2.3:8000", "127.0.0.1:8000", "paretune", "evil.example"):
        assert httpx.get(f"{address}/health", headers={"host": host}).json()["status"] == "ok"
    for path in ("/", "/v1/models", "/metrics", "/health/", "/healthy"):
        assert httpx.get(address + path, headers={"host": "10.1.2.3:8000"}).status_code == 403


@pytest.fixture(scope="module")
def crossing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    keys = Keys({"ann": hashlib.sha256(KEY.encode()).digest()})
    at = Address(port=0, keys=keys, allow_origins=("https://app.example.org", "http://localhost:3000"))
    with live(fake_service(tmp_path_factory.mktemp("store")), at) as found:
        yield found


@pytest.mark.parametrize("origin", ["https://app.example.org", "http://localhost:3000"])
def test_pages_of_a_named_origin_may_call_the_server(crossing: str, origin: str) -> None:
    asking = {"origin": origin, "access-control-request-method": "POST"}
    asking["access-control-request-headers"] = "authorization,content-type"
    asked = httpx.options(f"{crossing}/v1/chat/completions", headers=asking)
    assert asked.status_code == 200 and asked.headers["access-control-allow-origin"] == origin
    assert "authorization" in asked.headers["access-control-allow-headers"].lower()
    body = {"model": "soup", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    sent = {"origin": origin, "authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{crossing}/v1/chat/completions", headers=sent, json=body)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == origin
    assert "access-control-allow-credentials" not in answer.headers
    without = httpx.post(f"{crossing}/v1/chat/completions", headers={"origin": origin}, json=body)
    assert without.status_code == 401 and without.headers["access-control-allow-origin"] == origin, (
        "the page can read why"
    )


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example.org", "https://app.example.org:8443", "null"]
)
def test_pages_of_other_origins_still_may_not(crossing: str, origin: str) -> None:
    asking = {"origin": origin, "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in httpx.options(f"{crossing}/v1/models", headers=asking).headers
    answer = httpx.get(f"{crossing}/v1/models", headers={"origin": origin, "authorization": f"Bearer {KEY}"})
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["*", "app.example.org", "https://*.example.org", "https://x.org/path", "ftp://x.org"]
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ConfigError, match="--allow-origin"):
        Address(port=0, allow_origins=(origin,))
