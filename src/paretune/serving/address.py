"""The address of a server, and whom it admits."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from paretune.core.errors import ConfigError
from paretune.serving.callers import ANONYMOUS

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
SHORTEST_KEY = 16
"""Characters; anybody could guess a shorter key."""


@dataclass(frozen=True)
class Keys:
    """API keys by the names of their owners; only digests are kept.

    Attributes:
        digests: Owner -> SHA-256 of the key. Empty: no key is needed.
        admins: Owners who may read and change what other keys made.
    """

    digests: Mapping[str, bytes]
    admins: frozenset[str] = frozenset()

    @classmethod
    def read(cls, file: Path | None, environment: str | None) -> Keys:
        """Read keys from a file, one ``KEY``, ``NAME KEY`` or ``NAME KEY admin`` per line, and an admin's from the environment.

        Raises:
            ConfigError: The file cannot be read or holds no key, or a key is shorter than 16 characters.
        """
        keys, admins = ({}, set()) if file is None else _keys_in(file)
        if environment:
            keys["environment"] = environment
            admins.add("environment")
        for name, key in keys.items():
            if len(key) < SHORTEST_KEY:
                raise ConfigError(
                    f"the API key {name!r} has {len(key)} characters; expected at least {SHORTEST_KEY}, "
                    "as anybody could guess a shorter one"
                )
        digests = {name: hashlib.sha256(key.encode()).digest() for name, key in keys.items()}
        return cls(digests, frozenset(admins))

    def owner(self, key: str) -> str | None:
        """Return the owner of a key, or None; every wrong key takes the same time."""
        given = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        owner = None
        for name, digest in self.digests.items():
            if hmac.compare_digest(given, digest):
                owner = name
        return owner


def _keys_in(file: Path) -> tuple[dict[str, str], set[str]]:
    """Return the keys of a file by their owners, and the owners who are admins."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot read the API keys ({error})") from error
    keys: dict[str, str] = {}
    admins: set[str] = set()
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or line.lstrip().startswith("#"):
            continue
        name = words[0] if len(words) > 1 else f"key-{number}"
        if len(words) > 3 or (len(words) == 3 and words[2] != "admin") or name in (*keys, ANONYMOUS):
            raise ConfigError(
                f"{file}:{number}: expected 'KEY', 'NAME KEY' or 'NAME KEY admin' on each line, each name once and none "
                f"{ANONYMOUS!r}"
            )
        keys[name] = words[0] if len(words) == 1 else words[1]
        if len(words) == 3:
            admins.add(name)
    if not keys:
        raise ConfigError(f"{file}: holds no API key; expected 'KEY' or 'NAME KEY' on each line")
    return keys, admins


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
        allow_origins: Origins such as ``https://app.example.org`` whose pages may call this server from the browser (CORS).
        public_url: URL at which people reach this server through a proxy, such as ``https://example.org/steer``; empty where
            there is none. Its host is one of this server's names, and its path the root path where none is given.
        root_path: Path at which a proxy serves this server, such as ``/steer``. It is accepted before every path, and a proxy may
            leave it out.
        max_connections: Largest number of connections with a request in progress; more may be open and idle.
        body_bytes: Largest size of a request's body.
        body_seconds: Seconds within which the body must arrive.
        log_level: Least level that is logged: ``debug``, ``info``, ``warning`` or ``error``.
        log_format: ``text`` or ``json``.

    Raises:
        ConfigError: Other machines can reach the host, and neither are there keys nor is it open to all; or the public URL, the
            root path, an origin or a setting of the log is none.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Keys = Keys({})
    open_to_all: bool = False
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    public_url: str = ""
    root_path: str = ""
    max_connections: int = 512
    body_bytes: int = 1 << 20
    body_seconds: float = 30.0
    log_level: str = "info"
    log_format: str = "text"

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.keys.digests and not self.open_to_all:
            raise ConfigError(
                f"--host {self.host} can be reached from other machines; give --api-key-file (or PARETUNE_API_KEY), or "
                "--no-key to admit everybody"
            )
        for option, given, known in (
            ("--log-level", self.log_level, LOG_LEVELS),
            ("--log-format", self.log_format, LOG_FORMATS),
        ):
            if given not in known:
                raise ConfigError(f"{option} {given}: expected one of {', '.join(known)}")
        for origin in self.allow_origins:
            page = origin_of(origin)
            if (
                page is None
                or page[0] not in ("http", "https")
                or origin.count("/") != 2
                or {"*", "@", "?", "#"} & set(origin)
            ):
                raise ConfigError(
                    f"--allow-origin {origin}: expected scheme and host of the pages, such as https://app.example.org"
                )
        if self.public_url and (origin_of(self.public_url) is None or {"?", "#"} & set(self.public_url)):
            raise ConfigError(
                f"--public-url {self.public_url}: expected an address such as https://example.org/steer"
            )
        root = self.root_path or urlsplit(self.public_url).path
        root = "/" + root.strip("/") if root.strip("/") else ""
        if root and not re.fullmatch(r"(/[\w.~-]+)+", root):
            raise ConfigError(f"--root-path {self.root_path}: expected a path such as /steer")
        object.__setattr__(self, "root_path", root)

    @property
    def host_names(self) -> tuple[str, ...]:
        """Names, without a port, that the ``Host`` header may hold; empty admits every name.

        Names are checked where the server is meant for this machine alone, or where some are listed.
        """
        return (*(LOCAL_NAMES if is_loopback(self.host) else ()), *self.own_names)

    @property
    def own_names(self) -> tuple[str, ...]:
        """Names that the options state: pages at them are this server's, whatever their port."""
        public = origin_of(self.public_url)
        return (*(name.lower() for name in self.allow_hosts), *((public[1],) if public else ()))


def origin_of(url: str) -> tuple[str, str, int] | None:
    """Return scheme, host name and port of an address of the web, as an ``Origin`` states them; None for anything else."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        name = parts.hostname
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not name or parts.username is not None:
        return None
    return parts.scheme, f"[{name}]" if ":" in name else name, port


def is_loopback(host: str) -> bool:
    """Return whether a server that listens at ``host`` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
