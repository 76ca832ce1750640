"""Answers as HTML that a page can show: Markdown, tables, coloured code and formulas, of which nothing can act.

HTML in a text is shown as text, and what comes out is cleaned once more: only the elements and attributes listed here are left.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import tostring

from paretune.serving.markup import cleaner

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_core import StateCore
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

LONGEST = 20_000
"""Characters of a text that is read as Markdown; a longer one is shown as it is."""
LONGEST_CODE = 20_000
LONGEST_FORMULA = 2_000
DEEPEST = 24
"""Levels of lists and quotes; what lies deeper is left as it is written."""
LANGUAGES = (
    "bash", "c", "cpp", "csharp", "css", "diff", "go", "html", "ini", "java", "javascript", "json", "kotlin", "latex", "lua",
    "make", "markdown", "php", "python", "r", "ruby", "rust", "scala", "sql", "swift", "toml", "typescript", "xml", "yaml",
)  # fmt: skip
"""Languages that are coloured."""
_DEFINES = re.compile(r"\\(?:\w*command|\w*def|Declare\w*|let)\b")
"""Definitions of commands, by which a short formula becomes a huge one."""


@lru_cache(maxsize=128)
def render(text: str) -> str:
    """Return a text as HTML; one that is too long, or that cannot be read, as plain text."""
    if len(text) > LONGEST:
        return plain(text)
    try:
        return cleaner().clean(_reader().render(text))
    except RecursionError:
        return plain(text)


def plain(text: str) -> str:
    """Return a text as HTML in which it stands as it was written."""
    return f'<pre class="plain">{html.escape(text)}</pre>'


@cache
def _reader() -> MarkdownIt:
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    options = {"html": False, "breaks": True, "maxNesting": DEEPEST, "highlight": _highlighted}
    reader = MarkdownIt("commonmark", options).enable(["table", "strikethrough"])
    reader.use(
        dollarmath_plugin,
        allow_labels=False,
        allow_space=False,
        allow_digits=False,
        allow_blank_lines=False,
        double_inline=True,
    )
    reader.inline.ruler.before("escape", "math_brackets", _brackets)
    reader.core.ruler.push("paretune", _mended)
    for kind in ("math_inline", "math_inline_double", "math_block"):
        reader.add_render_rule(kind, _formula_of)
    return reader


def _brackets(state: StateInline, silent: bool) -> bool:
    r"""Read ``\(x\)`` and ``\[x\]`` as formulas; an end that is missing once is not looked for again."""
    opening = state.src[state.pos : state.pos + 2]
    closing = {"\\(": "\\)", "\\[": "\\]"}.get(opening)
    if closing is None or state.env.get(closing, -1) == len(state.src):
        return False
    end = state.src.find(closing, state.pos + 2)
    if end < 0:
        state.env[closing] = len(state.src)
        return False
    content = state.src[state.pos + 2 : end]
    if not content.strip() or end > state.posMax:
        return False
    if not silent:
        token = state.push("math_inline" if closing == "\\)" else "math_inline_double", "math", 0)
        token.content = content
    state.pos = end + 2
    return True


def _mended(state: StateCore) -> None:
    """Lower headings below those of the page, name the alignment of cells, lead links outwards, and link pictures."""
    for token in state.tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
        elif token.type in ("th_open", "td_open") and (style := token.attrs.pop("style", None)):
            token.attrSet("class", str(style).removeprefix("text-align:"))
        elif token.children:
            token.children = _linked(token.children)


def _linked(tokens: Sequence[Token]) -> list[Token]:
    from markdown_it.token import Token

    found: list[Token] = []
    outer: Token | None = None  # the link around; links are never within links
    for token in tokens:
        if token.type == "link_open":
            outer = token
        if token.type in ("link_open", "link_close"):
            if outer is not None and _leads_out(outer.attrGet("href")):
                outer.attrSet("target", "_blank")
                found.append(token)
            if token.type == "link_close":
                outer = None
        elif token.type == "image":
            source = str(token.attrGet("src"))
            word = Token("text", "", 0, content=token.content or source[:100])
            if outer is None and _leads_out(source):
                opened = Token("link_open", "a", 1, attrs={"href": source, "target": "_blank"})
                found += [opened, word, Token("link_close", "a", -1)]
            else:
                found.append(word)
        else:
            found.append(token)
    return found


def _leads_out(address: object) -> bool:
    return str(address).lower().startswith(("http://", "https://", "mailto:"))


def _highlighted(code: str, language: str, _: str) -> str:
    """Return code with the classes of pygments; empty for a language that is not coloured, and for very long code."""
    lexer = _lexers().get(language.lower())
    if lexer is None or len(code) > LONGEST_CODE:
        return ""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter

    formatter: Any = HtmlFormatter(nowrap=True)
    return str(highlight(code, lexer, formatter))


@cache
def _lexers() -> dict[str, Any]:
    """Return name of a language -> what reads it, under all names that it has."""
    from pygments.lexers import get_lexer_by_name

    lexers = [get_lexer_by_name(name, stripnl=False) for name in LANGUAGES]
    return {alias: lexer for lexer in lexers for alias in lexer.aliases}


def _formula_of(_: object, tokens: Sequence[Token], number: int, *__: object) -> str:
    token = tokens[number]
    return formula(token.content.strip(), display=token.type != "math_inline")


@lru_cache(maxsize=256)
def formula(latex: str, display: bool) -> str:
    """Return a formula as MathML; one that cannot be read, or that defines commands, as its source."""
    source = f'<code class="formula">{html.escape(latex)}</code>'
    if len(latex) > LONGEST_FORMULA or _DEFINES.search(latex):
        return source
    from latex2mathml.converter import convert_to_element

    try:
        tree = convert_to_element(latex, display="block" if display else "inline")
    except Exception:  # noqa: BLE001 - it raises whatever its parts raise on what is no formula
        return source
    for element in tree.iter():  # signs are there as references such as &#x0003D;
        element.text = element.text and html.unescape(element.text)
    return tostring(tree, encoding="unicode")
