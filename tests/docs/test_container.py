"""The files of the container: every option, file, extra and path in them exists. Docker itself is not needed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from paretune.cli.main import app

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
NGINX = (ROOT / "container/nginx.conf").read_text(encoding="utf-8")
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def copied() -> list[str]:
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    return [name for line in lines for name in line.split()]


def test_what_is_copied_exists_and_reaches_the_build() -> None:
    assert {"pyproject.toml", "src", "constraints.txt"} <= set(copied())
    admitted = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    for name in copied():
        assert (ROOT / name).exists() and name in admitted


def test_what_the_package_is_built_from_is_copied() -> None:
    readme, licences = re.search(r'readme = "(.+)"', PROJECT), re.search(r"license-files = \[(.+)\]", PROJECT)
    named = [found[1].strip('"') for found in (readme, licences) if found]
    assert set(named) <= set(copied()) and "setup.py" in copied()


def test_the_extras_exist() -> None:
    (extras,) = re.findall(r'^ARG EXTRAS="(.+)"$', DOCKERFILE, re.MULTILINE)
    assert all(re.search(rf"^{extra} = \[", PROJECT, re.MULTILINE) for extra in extras.split(","))


def test_the_command_is_one_that_paretune_knows() -> None:
    (script,) = SERVICES["services"]["paretune"]["command"]
    words = shlex.split(script.split("exec ", 1)[1].replace("$$", "$"))
    assert words[:2] == ["paretune", "serve"]
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    known = {name for option in serve.params for name in (*option.opts, *option.secondary_opts)}
    used = [word for word in words if word.startswith("--")]
    assert used and set(used) <= known
    assert words[words.index("--port") + 1] == "8000" and "EXPOSE 8000" in DOCKERFILE
    assert "proxy_pass http://paretune:8000;" in NGINX
    assert 'ENTRYPOINT ["paretune"]' in DOCKERFILE


def test_every_secret_and_volume_that_is_used_is_declared() -> None:
    for service in SERVICES["services"].values():
        assert set(service.get("secrets", ())) <= set(SERVICES["secrets"])
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in SERVICES["volumes"] or source == "./runs" or (ROOT / source).exists()
        assert "healthcheck" in service or "build" in service, "the image of ours has its own"
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    for name in re.findall(r"/run/secrets/(\w+)", text):
        assert name in SERVICES["secrets"]
    assert "HEALTHCHECK" in DOCKERFILE and "/health" in DOCKERFILE


def test_secrets_never_reach_git() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for secret in SERVICES["secrets"].values():
        assert f"/{Path(secret['file']).parent}/" in ignored


@pytest.mark.parametrize(
    "line", ["proxy_buffering off;", "proxy_set_header Host $http_host;", "proxy_read_timeout 180s;"]
)
def test_nginx_is_set_as_the_page_on_proxies_says(line: str) -> None:
    assert line in NGINX and line in (ROOT / "docs/reverse-proxy.md").read_text(encoding="utf-8")
