"""A chat in the terminal with the preference on keys: the next answer, or the last one again, at another preference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from paretune.choosing.dial import Dial, dial_stops
from paretune.core.errors import ParetuneError
from paretune.core.preference import Preference
from paretune.data.rows import Message, Prompt
from paretune.fronts.surface import Surface, as_preference
from paretune.policies.catalogue import find_sources

STEP = 0.05
WIDTH = 21
HELP = """PageUp and PageDown turn the dial; with more than two objectives Tab chooses which weight they change.
/again        answer the last message again, at the current preference
/p TEXT       set the preference, such as /p concise=0.7,warm=0.3
/new          start a new conversation
/help         show this text; Ctrl-C stops an answer, Ctrl-D ends the chat"""


@dataclass
class Knob:
    """The current preference, and how keys change it.

    Attributes:
        objectives: M names.
        preference: Preference of the next answer.
        surface: The measured front; with it and two objectives, a step of the knob is a step of outcome.
        used: Function from a preference to the one that the policy serves.
        chosen: Number of the objective whose weight the keys change, where there are more than two.
    """

    objectives: tuple[str, ...]
    preference: Preference
    surface: Surface | None
    used: Callable[[Preference], Preference]
    chosen: int = 0

    def __post_init__(self) -> None:
        two = len(self.objectives) == 2 and self.surface is not None
        self._dial = None
        if two and self.surface is not None and dial_stops(self.surface, round(1 / STEP) + 1).by == "scores":
            self._dial = Dial.of(self.surface)  # else a step is one of weight: the front gives too few stops

    @property
    def position(self) -> float:
        """Position of the knob, from 0 to 1."""
        if self._dial is not None:
            return self._dial.position(self.preference)
        return self.preference[self.objectives[self.chosen]]

    def turn(self, steps: int) -> None:
        """Move by steps of a twentieth of the path along the front, or of the chosen objective's weight."""
        position = min(1.0, max(0.0, round(self.position / STEP + steps) * STEP))
        if self._dial is not None:
            self.preference = self._dial.preference(position)
            return
        weights = self.preference.array()
        rest = 1.0 - weights[self.chosen]
        others = weights / rest if rest > 0 else weights * 0 + 1 / max(1, len(weights) - 1)
        moved = others * (1.0 - position)
        moved[self.chosen] = position
        self.preference = as_preference(moved, self.objectives)

    def choose_next(self) -> None:
        """Choose the next objective for the keys."""
        self.chosen = (self.chosen + 1) % len(self.objectives)

    def status(self) -> str:
        """Return the line below the prompt: the dial, the preference and the expected scores."""
        mark = round(self.position * (WIDTH - 1))
        bar = "".join("●" if k == mark else "─" for k in range(WIDTH))
        weights = "  ".join(f"{name} {weight:.2f}" for name, weight in self.preference.as_dict().items())
        used = self.used(self.preference)
        snapped = "" if used == self.preference else f"  (answers as {used})"
        scores = ""
        if self.surface is not None:
            means = self.surface.expected(used).mean
            scores = "  expected " + ", ".join(f"{n} {v:.2f}" for n, v in means.items() if v is not None)
        which = f" {self.objectives[self.chosen]}" if self._dial is None and len(self.objectives) > 2 else ""
        return f"[{bar}]{which}  {weights}{snapped}{scores}  PgUp/PgDn  /help"


def bindings(knob: Knob) -> KeyBindings:
    """Return the keys that turn the knob."""
    keys = KeyBindings()

    @keys.add("pageup")
    def _(event: KeyPressEvent) -> None:
        knob.turn(1)

    @keys.add("pagedown")
    def _(event: KeyPressEvent) -> None:
        knob.turn(-1)

    @keys.add("tab")
    def _(event: KeyPressEvent) -> None:
        knob.choose_next()

    return keys


def converse(
    session: PromptSession[str],
    knob: Knob,
    answer: Callable[[Prompt, Preference], Iterator[str]],
    write: Callable[[str], None],
) -> None:
    """Answer messages until the user ends the chat.

    Args:
        session: Source of input lines.
        knob: The preference.
        answer: Function that yields the pieces of an answer; closing the iterator stops the answer.
        write: Function that prints text as it arrives.
    """
    messages: list[Message] = []
    keys = bindings(knob)
    while True:
        try:
            toolbar = lambda: FormattedText([("", knob.status())])  # noqa: E731
            line = session.prompt("> ", key_bindings=keys, bottom_toolbar=toolbar).strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        command, _, rest = line.partition(" ")
        if command == "/again" and messages:
            while messages and messages[-1].role == "assistant":
                messages.pop()
        elif command == "/p" and rest:
            try:
                knob.preference = Preference.parse(rest, knob.objectives)
            except ParetuneError as error:
                write(f"{error}\n")
            continue
        elif command == "/new":
            messages.clear()
            continue
        elif line.startswith("/"):
            write(HELP + "\n")
            continue
        elif line:
            messages.append(Message("user", line))
        if not messages or not line:
            continue
        text = ""
        pieces = answer(tuple(messages), knob.preference)
        try:
            for piece in pieces:
                text += piece
                write(piece)
        except KeyboardInterrupt:
            write(" ...")
        except ParetuneError as error:
            write(str(error))
            messages.pop()
        finally:
            pieces.close()  # type: ignore[attr-defined]
        write("\n")
        if text:
            messages.append(Message("assistant", text))


def talk(
    run: Path,
    policy: str | None,
    preference: str | None,
    max_tokens: int,
    temperature: float,
    seed: int,
    dtype: str | None,
) -> None:
    """Load one policy of a run and chat with it.

    Raises:
        ParetuneError: There is no such policy, or it cannot serve the preference.
    """
    import typer

    from paretune.core.sampling import Sampling
    from paretune.policies.saving import load_policy
    from paretune.serving.config import EngineLimits
    from paretune.serving.engine.engine import Engine
    from paretune.serving.events import End, Job

    source = find_sources(run, [policy] if policy else ())[0]
    if source.loras:
        raise ParetuneError(
            f"{run}: these are exported LoRAs; chat with the run that they were exported from"
        )
    start = (
        Preference.parse(preference, source.objectives)
        if preference
        else Preference.uniform(source.objectives)
    )
    knob = Knob(source.objectives, start, source.surface, source.used)
    typer.echo(f"loading {source.name} on {source.model} ...", err=True)
    loaded = load_policy(source.folder, dtype)
    count = 0
    with Engine({source.name: loaded}, EngineLimits(max_waiting=4)) as engine:

        def answer(prompt: Prompt, at: Preference) -> Iterator[str]:
            nonlocal count
            job = Job(source.name, prompt, at, Sampling(max_tokens, temperature, 0.95), seed + count)
            count += 1
            stream = engine.submit(job)
            try:
                for event in stream:
                    if isinstance(event, End):
                        if event.reason == "error":
                            raise ParetuneError(event.message)
                        return
                    yield event.text
            finally:
                stream.cancel()

        typer.echo(HELP + "\n")
        converse(PromptSession(), knob, answer, lambda text: typer.echo(text, nl=False))
