"""A chat in the terminal, with the preference on keys: the next answer, or the last one anew, at another place of the front."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from paretune.choosing.dial import Dial
from paretune.core.errors import ParetuneError
from paretune.core.preference import Preference
from paretune.data.rows import Message, Prompt
from paretune.fronts.surface import Surface, as_preference
from paretune.policies.catalogue import find_sources

STEP = 0.05
WIDTH = 21
HELP = """PageUp and PageDown turn the dial; with more than two objectives Tab chooses which weight they change.
/again        answer the last message anew, at the preference of now
/p TEXT       set the preference, such as /p concise=0.7,warm=0.3
/new          begin a new conversation
/help         this; Ctrl-C breaks an answer off, Ctrl-D ends the chat"""


@dataclass
class Knob:
    """The preference of now, and how keys change it.

    Attributes:
        objectives: M names.
        preference: of the next answer.
        surface: the measured front; with it and two objectives a step of the knob is a step of outcome.
        used: what the policy serves for a preference.
        chosen: which objective the keys weigh, where there are more than two.
    """

    objectives: tuple[str, ...]
    preference: Preference
    surface: Surface | None
    used: Callable[[Preference], Preference]
    chosen: int = 0

    def __post_init__(self) -> None:
        two = len(self.objectives) == 2 and self.surface is not None
        self._dial = Dial.of(self.surface) if two and self.surface is not None else None

    @property
    def position(self) -> float:
        """Where the knob stands, from 0 to 1."""
        if self._dial is not None:
            return self._dial.position(self.preference)
        return self.preference[self.objectives[self.chosen]]

    def turn(self, steps: int) -> None:
        """Move by steps of a twentieth: of the way along the front, or of the chosen objective's weight."""
        place = min(1.0, max(0.0, round(self.position / STEP + steps) * STEP))
        if self._dial is not None:
            self.preference = self._dial.preference(place)
            return
        weights = self.preference.array()
        rest = 1.0 - weights[self.chosen]
        others = weights / rest if rest > 0 else weights * 0 + 1 / max(1, len(weights) - 1)
        moved = others * (1.0 - place)
        moved[self.chosen] = place
        self.preference = as_preference(moved, self.objectives)

    def choose_next(self) -> None:
        """Let the keys weigh the next objective."""
        self.chosen = (self.chosen + 1) % len(self.objectives)

    def told(self) -> str:
        """Return the line below the prompt: the dial, the preference, and the scores to expect."""
        mark = round(self.position * (WIDTH - 1))
        bar = "".join("●" if k == mark else "─" for k in range(WIDTH))
        weights = "  ".join(f"{name} {weight:.2f}" for name, weight in self.preference.as_dict().items())
        used = self.used(self.preference)
        snapped = "" if used == self.preference else f"  (answers as {used})"
        scores = ""
        if self.surface is not None:
            known = self.surface.expected(used).mean
            scores = "  expected " + ", ".join(f"{n} {v:.2f}" for n, v in known.items() if v is not None)
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
    """Talk until the person leaves.

    Args:
        session: reads a line.
        knob: the preference.
        answer: yields the pieces of an answer; closing it breaks the answer off.
        write: prints text as it comes.
    """
    messages: list[Message] = []
    keys = bindings(knob)
    while True:
        try:
            toolbar = lambda: FormattedText([("", knob.told())])  # noqa: E731
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
    dtype: str,
) -> None:
    """Load one policy of a run and talk to it.

    Raises:
        ParetuneError: no such policy, or a preference it cannot serve.
    """
    import typer

    from paretune.core.sampling import Sampling
    from paretune.policies.saving import load_policy
    from paretune.serving.config import EngineLimits
    from paretune.serving.engine.engine import Engine
    from paretune.serving.events import End, Job

    source = find_sources(run, [policy] if policy else ())[0]
    if source.loras:
        raise ParetuneError(f"{run}: holds exported LoRAs; chat with the run they were exported from")
    begin = (
        Preference.parse(preference, source.objectives)
        if preference
        else Preference.uniform(source.objectives)
    )
    knob = Knob(source.objectives, begin, source.surface, source.used)
    typer.echo(f"{source.name} on {source.model}; it is being loaded ...", err=True)
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
