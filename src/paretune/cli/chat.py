"""A chat in the terminal with the preference on keys: the next answer, or the last one again, at another preference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from paretune.choosing.dial import Dial, dial_stops
from paretune.core.errors import ParetuneError
from paretune.core.files import expanded, file_digest, new_file, write_json
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Message, Prompt
from paretune.fronts.surface import Surface, as_preference
from paretune.policies.catalogue import default_sampling, find_sources
from paretune.policies.policy_file import BaseChoice

UNMEASURED = {"default_tokens": 256, "temperature": 0.7, "top_p": 0.95}
"""How answers are sampled where no front was measured."""
STEP = 0.05
WIDTH = 21
HELP = """PageUp and PageDown turn the dial; with more than two objectives Tab chooses which weight they change.
/again        answer the last message again, at the current preference
/edit TEXT    replace the last message, and answer it
/p TEXT       set the preference, such as /p concise=0.7,warm=0.3
/system TEXT  set the system prompt of this conversation; without a text there is none
/save FILE    save the conversation as JSON, each answer with its preference
/new          start a new conversation, without a system prompt
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


@dataclass
class Turn:
    """A message, and the preference that it was answered at; None for a message of the user."""

    message: Message
    preference: Preference | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the turn as a saved conversation has it."""
        told = {} if self.preference is None else {"preference": self.preference.as_dict()}
        return {"role": self.message.role, "content": self.message.content, **told}


class Chat:
    """A conversation, and what its commands do.

    Attributes:
        knob: The preference of the next answer.
        system: System prompt of the conversation; empty for none.
        turns: What was said, the oldest first.
    """

    def __init__(
        self, knob: Knob, answer: Callable[[Prompt, Preference], Iterator[str]], write: Callable[[str], None]
    ) -> None:
        self.knob, self.answer, self.write = knob, answer, write
        self.system = ""
        self.turns: list[Turn] = []
        self._saved: dict[Path, str] = {}
        self._commands: dict[str, Callable[[str], bool]] = {
            "/again": self._again,
            "/edit": self._edit,
            "/p": self._prefer,
            "/system": self._instruct,
            "/save": self._save,
            "/new": self._begin,
        }

    def read(self, line: str) -> None:
        """Do what a line asks for: a command, or a message that is answered."""
        command, _, rest = line.partition(" ")
        try:
            if not line.startswith("/"):
                self.turns.append(Turn(Message("user", line)))
                asks = True
            elif command in self._commands:
                asks = self._commands[command](rest.strip())
            else:
                asks = self._explain()
        except ParetuneError as error:
            self.write(f"{error}\n")
            return
        if asks:
            self._ask()

    def _explain(self) -> bool:
        self.write(HELP + "\n")
        return False

    def _again(self, _: str) -> bool:
        if not self.turns:
            return self._explain()
        self._drop_answer()
        return True

    def _edit(self, text: str) -> bool:
        if not text:
            raise ParetuneError("/edit: there is no text; give the message that replaces the last one")
        if not self.turns:
            raise ParetuneError("/edit: there is no message to replace yet")
        self._drop_answer()
        self.turns[-1] = Turn(Message("user", text))
        return True

    def _drop_answer(self) -> None:
        if self.turns[-1].message.role == "assistant":
            self.turns.pop()

    def _prefer(self, text: str) -> bool:
        if not text:
            return self._explain()
        self.knob.preference = Preference.parse(text, self.knob.objectives)
        return False

    def _instruct(self, text: str) -> bool:
        self.system = text
        self.write("the system prompt holds from the next answer on\n" if text else "no system prompt\n")
        return False

    def _begin(self, _: str) -> bool:
        self.turns.clear()
        self.system = ""
        return False

    def _save(self, name: str) -> bool:
        """Write the conversation; what this chat wrote before and nobody changed is replaced, any other file is kept."""
        if not name:
            raise ParetuneError("/save: there is no name of a file, such as /save talk.json")
        file = expanded(name, "/save").absolute()
        if not (file.is_file() and self._saved.get(file) == file_digest(file)):
            new_file(file, "/save writes")
        system = [Turn(Message("system", self.system))] if self.system else []
        write_json(file, {"messages": [turn.as_dict() for turn in (*system, *self.turns)]})
        self._saved[file] = file_digest(file)
        self.write(f"saved {file}\n")
        return False

    def _ask(self) -> None:
        """Answer the last message, and say at which preference."""
        system = [Message("system", self.system)] if self.system else []
        used = self.knob.used(self.knob.preference)
        pieces = self.answer((*system, *(turn.message for turn in self.turns)), self.knob.preference)
        text, told = "", f"\n[{used}]\n"
        try:
            for piece in pieces:
                text += piece
                self.write(piece)
        except KeyboardInterrupt:
            self.write(" ...")
        except ParetuneError as error:
            self.write(str(error))
            self.turns.pop()
            told = "\n"
        finally:
            pieces.close()  # type: ignore[attr-defined]
        self.write(told)
        if text:
            self.turns.append(Turn(Message("assistant", text), used))


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
    chat = Chat(knob, answer, write)
    keys = bindings(knob)
    while True:
        try:
            toolbar = lambda: FormattedText([("", knob.status())])  # noqa: E731
            line = session.prompt("> ", key_bindings=keys, bottom_toolbar=toolbar).strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if line:
            chat.read(line)


def sampling_of(
    run: Path, max_tokens: int | None, temperature: float | None, top_p: float | None
) -> Sampling:
    """Return how a chat samples: as stated, else as the front of the run was measured, since what is expected holds for that."""
    measured = default_sampling(run)
    stated = {"default_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
    found = {**UNMEASURED, **measured, **{key: value for key, value in stated.items() if value is not None}}
    return Sampling(found["default_tokens"], found["temperature"], found["top_p"])


def talk(
    run: Path,
    policy: str | None,
    preference: str | None,
    sampling: Sampling,
    seed: int,
    base: BaseChoice,
) -> None:
    """Load one policy of a run and chat with it.

    Raises:
        ParetuneError: There is no such policy, or it cannot serve the preference.
    """
    import typer

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
    typer.echo(
        f"loading {source.name} on {source.model} (answers of at most {sampling.max_new_tokens} tokens, temperature "
        f"{sampling.temperature:g}, top p {sampling.top_p:g}) ...",
        err=True,
    )
    loaded = load_policy(source.folder, **vars(base))
    count = 0
    with Engine({source.name: loaded}, EngineLimits(max_waiting=4)) as engine:

        def answer(prompt: Prompt, at: Preference) -> Iterator[str]:
            nonlocal count
            job = Job(source.name, prompt, at, sampling, seed + count)
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
