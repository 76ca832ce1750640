"""What a judge or a scoring server was asked, and what that cost: counts that a scorer keeps while it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from threading import Lock

from paretune.core.errors import ConfigError, suggest

MILLION = 1e6
"""Tokens for which a price is given."""


@dataclass
class Usage:
    """Counts of what one scorer asked; a scorer adds to them, and whoever shows them takes them.

    Attributes:
        asked: Requests that were answered: by a judge, one rating or one comparison each; by a server, one row each.
        kept: Answers that were read from the cache instead.
        unread: Ratings and comparisons without a result, because no answer could be read; they are never a score.
        refused: Rows that the server refused.
        compared: Pairs that were compared in both orders.
        turned: Of these, the pairs whose verdict changed with the order of the answers.
        input_tokens, output_tokens: Tokens that were read and written for ``asked``, as the server counts them, or the model here.
    """

    asked: int = 0
    kept: int = 0
    unread: int = 0
    refused: int = 0
    compared: int = 0
    turned: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def __post_init__(self) -> None:
        self._lock = Lock()

    def add(self, **counts: int) -> None:
        """Add to counts by their names; threads may add at the same time."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def take(self) -> Usage:
        """Return the counts so far, and begin again at 0."""
        with self._lock:
            taken = Usage(**{field.name: getattr(self, field.name) for field in fields(self)})
            for field in fields(self):
                setattr(self, field.name, 0)
        return taken

    def plus(self, other: Usage) -> Usage:
        """Return the sum of two counts."""
        return Usage(**{name: count + getattr(other, name) for name, count in asdict(self).items()})

    def __bool__(self) -> bool:
        return any(asdict(self).values())


@dataclass(frozen=True)
class Prices:
    """What a judge's tokens cost.

    Attributes:
        input, output: Price of a million tokens that are read, and that are written.
        currency: What the prices are in.
    """

    input: float = 0.0
    output: float = 0.0
    currency: str = "USD"

    def of(self, input_tokens: float, output_tokens: float) -> float | None:
        """Return the money that tokens cost; None where no price is known."""
        if not self.input and not self.output:
            return None
        return (input_tokens * self.input + output_tokens * self.output) / MILLION


FREE = Prices()
"""No price is known."""


def in_words(usage: Usage, prices: Prices = FREE) -> str:
    """Return a sentence without its end stop on what was asked and what it cost.

    >>> in_words(Usage(asked=1200, kept=30, unread=2, input_tokens=640_000, output_tokens=12_000), Prices(1.0, 5.0))
    '1,200 answers, 640,000 tokens read and 12,000 written, 0.70 USD; 30 from the cache; 2 could not be read'
    """
    parts = [f"{usage.asked:,} answers"]
    if usage.input_tokens or usage.output_tokens:
        parts[0] += f", {usage.input_tokens:,} tokens read and {usage.output_tokens:,} written"
    money = prices.of(usage.input_tokens, usage.output_tokens)
    if money is not None:
        parts[0] += f", {money:.2f} {prices.currency}"
    if usage.kept:
        parts.append(f"{usage.kept:,} from the cache")
    if usage.compared:
        parts.append(f"{usage.turned:,} of {usage.compared:,} pairs were judged otherwise in the other order")
    if usage.unread:
        parts.append(f"{usage.unread:,} could not be read")
    if usage.refused:
        parts.append(f"{usage.refused:,} were refused")
    return "; ".join(parts)


def prices_of(given: Mapping[str, object] | None) -> Prices:
    """Return the prices of a config's ``prices``.

    Raises:
        ConfigError: Another key, or a price that is no number of at least 0.
    """
    if given is None:
        return Prices()
    if not isinstance(given, Mapping):
        raise ConfigError(f"prices: {given!r:.60}: expected {{input: NUMBER, output: NUMBER, currency: USD}}")
    names = [field.name for field in fields(Prices)]
    for name, value in given.items():
        if name not in names:
            raise ConfigError(f"prices: unknown key {name!r}: {suggest(str(name), names)}")
        right = isinstance(value, str) and value if name == "currency" else _is_price(value)
        if not right:
            raise ConfigError(
                f"prices: {name}: {value!r}: expected {'a name' if name == 'currency' else 'a number of at least 0'}"
            )
    return Prices(**given)  # type: ignore[arg-type]


def _is_price(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
