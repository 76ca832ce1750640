"""The address of a server, and whom it admits."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paretune.core.errors import ConfigError

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
SHORTEST_KEY = 16
"""Characters; anybody could guess a shorter key."""


@dataclass(frozen=True)
class Keys:
    """API keys by the names of their owners; only digests are kept.

    Attributes:
        digests: Owner -> SHA-256 of the key. Empty: no key is needed.
    """

    digests: Mapping[str, bytes]

    @classmethod
    def read(cls, file: Path | None, environment: str | None) -> Keys:
        """Read keys from a file, one ``KEY`` or ``NAME KEY`` per line, and one more from the environment.

        Raises:
            ConfigError: The file cannot be read or holds no key, or a key is shorter than 16 characters.
        """
        keys = {} if file is None else _keys_in(file)
        if environment:
            keys["environment"] = environment
        for name, key in keys.items():
            if len(key) < SHORTEST_KEY:
                raise ConfigError(
                    f"the API key {name!r} has {len(key)} characters; expected at least {SHORTEST_KEY}, "
                    "as anybody could guess a shorter one"
                )
        return cls({name: hashlib.sha256(key.encode()).digest() for name, key in keys.items()})

    def owner(self, key: str) -> str | None:
        """Return the owner of a key, or None; every wrong key takes the same time."""
        given = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        owner = None
        for name, digest in self.digests.items():
            if hmac.compare_digest(given, digest):
                owner = name
        return owner


def _keys_in(file: Path) -> dict[str, str]:
    """Return the keys of a file by their owners."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot read the API keys ({error})") from error
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or line.lstrip().startswith("#"):
            continue
        name = words[0] if len(words) == 2 else f"key-{number}"
        if len(words) > 2 or name in keys:
            raise ConfigError(f"{file}:{number}: expected 'KEY' or 'NAME KEY' on each line, each name once")
        keys[name] = words[-1]
    if not keys:
        raise ConfigError(f"{file}: holds no API key; expected 'KEY' or 'NAME KEY' on each line")
    return keys


@dataclass(frozen=True)
class Address:
    """The address of a server, and whom it admits.

    None of it is read from a run folder, which may come from somebody else.

    Attributes:
        host: Host name or IP address.
        port: Port; 0 takes any free one.
        keys: API keys; without keys none is needed.
        open_to_all: Whether everybody who can reach the host is admitted without a key.
        allow_hosts: Further names of this server in the ``Host`` header.
        max_connections: Largest number of open connections.
        body_bytes: Largest size of a request's body.
        body_seconds: Seconds within which the body must arrive.

    Raises:
        ConfigError: Other machines can reach the host, and neither are there keys nor is it open to all.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Keys = Keys({})
    open_to_all: bool = False
    allow_hosts: tuple[str, ...] = ()
    max_connections: int = 512
    body_bytes: int = 1 << 20
    body_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.keys.digests and not self.open_to_all:
            raise ConfigError(
                f"--host {self.host} can be reached from other machines; give --api-key-file (or PARETUNE_API_KEY), or "
                "--no-key to admit everybody"
            )

    @property
    def host_names(self) -> tuple[str, ...]:
        """Names, without a port, that the ``Host`` header may hold; empty admits every name.

        Names are checked where the server is meant for this machine alone, or where some are listed.
        """
        return (*(LOCAL_NAMES if is_loopback(self.host) else ()), *self.allow_hosts)


def is_loopback(host: str) -> bool:
    """Return whether a server that listens at ``host`` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
