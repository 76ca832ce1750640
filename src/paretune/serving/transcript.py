"""A conversation as Markdown to read elsewhere: what was said stays within quotes, and no HTML of it takes effect."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt

from paretune.serving.store.entries import Conversation, Turn

_HTML = re.compile(r"<(?=[A-Za-z/!?])")
_CODE = re.compile(r"(?<!`)(`+)(?!`)(?:.+?)(?<!`)\1(?!`)")


def transcript(conversation: Conversation) -> str:
    """Return a conversation as Markdown: the branch that is shown, then the turns of others.

    Every line of a turn stands in a quote, so that no turn can look like another one; HTML in it is shown as text.
    """
    title = " ".join(conversation.title.split()) or f"Conversation {conversation.id}"
    parts = [f"# {_one_line(title)}", f"{conversation.profile}, {conversation.created:%Y-%m-%d %H:%M} UTC"]
    if conversation.system:
        parts += ["## System", quoted(conversation.system)]
    branch = conversation.branch
    numbers = {turn.id: number for number, turn in enumerate(branch, start=1)}
    others = [turn for turn in conversation.turns if turn.id not in numbers]
    numbers |= {turn.id: number for number, turn in enumerate(others, start=len(branch) + 1)}
    for turn in branch:
        parts += [f"## {numbers[turn.id]}. {_speaker(turn)}", quoted(turn.content)]
    if others:
        parts.append("## Other branches")
    for turn in others:
        reply = f", in reply to {numbers[turn.parent]}" if turn.parent in numbers else ""
        parts += [f"### {numbers[turn.id]}. {_speaker(turn)}{reply}", quoted(turn.content)]
    return "\n\n".join(parts) + "\n"


def quoted(text: str) -> str:
    """Return text as a quote in Markdown, in which its own HTML is shown and does nothing."""
    lines = re.split(r"\r\n|\n|\r", text)
    reader = MarkdownIt("commonmark")
    code = set[int]()
    for token in reader.parse("\n".join(lines)):
        if token.type in ("fence", "code_block") and token.map:
            code |= set(range(*token.map))
    safe = [line if number in code else _shown(line) for number, line in enumerate(lines)]
    if any(_has_html(token) for token in reader.parse("\n".join(safe))):
        safe = [_HTML.sub("&lt;", line) for line in lines]
    return "\n".join(f"> {line}".rstrip() for line in safe)


def _shown(line: str) -> str:
    """Return a line with its HTML escaped, but for what stands in code."""
    parts, end = [], 0
    for code in _CODE.finditer(line):
        parts += [_HTML.sub("&lt;", line[end : code.start()]), code.group()]
        end = code.end()
    return "".join([*parts, _HTML.sub("&lt;", line[end:])])


def _has_html(token: object) -> bool:
    kind, children = getattr(token, "type", ""), getattr(token, "children", None) or ()
    return kind in ("html_block", "html_inline") or any(_has_html(child) for child in children)


def _one_line(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>#|~$])", r"\\\1", text)


def _speaker(turn: Turn) -> str:
    if turn.role == "user":
        return "User"
    about = [turn.side or "", turn.policy or ""]
    if turn.preference:
        about.append(",".join(f"{name}={weight:g}" for name, weight in turn.preference.items()))
    told = ", ".join(_one_line(" ".join(part.split())) for part in about if part)
    return f"Assistant ({told})" if told else "Assistant"
