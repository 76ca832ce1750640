"""Answers as HTML: what is Markdown is rendered, and nothing that a text says becomes an element or attribute that acts."""

from __future__ import annotations

import time
from html.parser import HTMLParser

import pytest

pytest.importorskip("nh3", reason="rendering needs paretune[serve]")

from paretune.serving.markup import ATTRIBUTES, REL, TAGS, classes
from paretune.serving.rendering import LONGEST, formula, render


class Elements(HTMLParser):
    """Every element with its attributes, as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        self.open.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    handle_decl = handle_pi = unknown_decl = handle_comment


def checked(text: str) -> Elements:
    """Return the elements of a text's HTML; each is one that a page may show."""
    found = Elements(render(text))
    for tag, attributes in found.found:
        assert tag in TAGS, tag
        allowed = ATTRIBUTES.get(tag, set()) | {"class"} | ({"target", "rel"} if tag == "a" else set())
        assert attributes.keys() <= allowed, (tag, attributes)
        named = attributes.get("class", "").split()
        assert set(named) <= classes().get(tag, frozenset()), (tag, named)
        if tag == "a":
            assert attributes["rel"] == REL and attributes["target"] == "_blank"
            assert attributes["href"].lower().startswith(("http://", "https://", "mailto:"))
    return found


ATTACKS = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg onload=alert(1)>",
    "<iframe srcdoc='<script>x</script>'>", "<math><mi//xlink:href='data:x,<script>alert(4)</script>'>",
    "<style>*{display:none}</style>", "<a href='javascript:x'>y</a>", "<base href=//evil.example>",
    "<form action=//evil.example><input></form>", "<meta http-equiv=refresh content=0>", "<!--><img src=x onerror=x>-->",
    "<![CDATA[<img src=x onerror=x>]]>", "<?xml-stylesheet href=x?>", "<noscript><p title='</noscript>",
    "[x](javascript:alert(1))", "[x](JaVaScRiPt:alert(1))", "[x](  java\nscript:alert(1))", "[x](&#106;avascript:alert(1))",
    "[x](javascript&colon;alert(1))", "[x](data:text/html;base64,PHNjcmlwdD4=)", "[x](vbscript:x)", "[x](//evil.example)",
    "[x](/api/votes)", "[x](#top)", "[x](?q)", "[x](file:///etc/passwd)", "[x](blob:x)", "[x](http:javascript:alert(1))",
    "[x](<javascript:alert(1)>)", "<javascript:alert(1)>", "[x]: javascript:alert(1)\n\n[x]", "[x][y]\n\n[y]: data:x",
    "[x](http://a\"onmouseover=alert(1))", "[x](http://a 'y\" onclick=\"alert(1)')", '[x](http://a "><img src=x onerror=x>")',
    "![x](http://evil.example/p.png)", "![x](javascript:alert(1))", "![\"onerror=x](http://a)",
    "![x](data:image/svg+xml,<svg/onload=x>)", "![![x](http://b)](http://a)", "[![x](javascript:x)](javascript:y)",
    "[a [b](http://c) d](http://e)", "```\"><script>alert(1)</script>\nx\n```", "``` python onload=x\nx\n```",
    "~~~<b>\n<b>\n~~~", "`<img src=x>`", "    <img src=x>", "# <img src=x> {#id .class onclick=x}",
    "| <img src=x> |\n|:-:|\n| <b onclick=x> |", "|a|\n|-|\n|`<b>|`|", "1\\. x\n99999999999. y", "*<b*>*",
    "~~<s onclick=x>~~", "&lt;script&gt;alert(1)&lt;/script&gt;", "&#60;script&#62;", "\\<script>", "\x00<script>",
    "<\x00script>", "<scr\nipt>", "</p><script>", "</pre></code><script>x</script>",
    "```html\n</code></pre><script>x</script>\n```", "```python\n'</span><img src=x onerror=x>'\n```",
    "$<img src=x onerror=x>$", "$$</math><img src=x onerror=x>$$", "$\\text{<img src=x onerror=x>}$",
    "$\\text{&lt;img src=x onerror=x&gt;}$", "$\\href{javascript:alert(1)}{x}$",
    "$\\style{background:url(//evil.example)}{x}$", "$\\class{evil}{x}$", "$\\text{</mtext></math><script>x</script>}$",
    "$\\color{red\" onclick=\"x}{y}$", "$\\textcolor{url(//evil.example)}{x}$", "$\\operatorname{<svg onload=x>}$",
    "$\\unicode{x3c}$", "\\(<script>x</script>\\)", "\\[</math><iframe src=x>\\]", "$\\begin{<script>}x\\end{<script>}$",
    "$\\includegraphics{//evil.example}$", "$\\begin{array}{c\" onclick=\"x}a\\end{array}$", "$\\hspace{1em\" onload=\"x}$",
    "$a$<script>$b$", "$`<script>`$", "<https://a.b/<script>>", "<a@b.c\"onclick=x>", "https://a.b/\"onclick=x",
    "[x](mailto:a@b.c?subject=<script>)", "\ud800<script>",
)  # fmt: skip


@pytest.mark.parametrize("text", ATTACKS, ids=range(len(ATTACKS)))
def test_nothing_that_a_text_says_can_act(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    checked(text)
    checked(f"- > {text}\n\n| {text} |\n|-|\n\n**{text}**")


def test_markdown_is_rendered() -> None:
    found = checked(
        "# One\n\n**b** *i* ~~s~~ `c`\nnext\n\n> q\n\n3. a\n4. b\n   - c\n\n| l | r |\n|:-|-:|\n| 1 | 2 |\n\n---\n\n"
        "[w](https://a.b) <m@n.o> ![picture](http://c.d/e.png) [in](/votes)\n\n```py\nx = 'y'  # z\n```\n\n```unknown\n<x>\n```"
    )
    tags = [tag for tag, _ in found.found]
    assert set(tags) == TAGS - {"h4", "h5", "h6"} - {tag for tag in TAGS if tag.startswith("m")}
    attributes = dict(found.found)
    assert attributes["ol"] == {"start": "3"} and attributes["td"] == {"class": "right"}
    links = [(a["href"]) for tag, a in found.found if tag == "a"]
    assert links == ["https://a.b", "mailto:m@n.o", "http://c.d/e.png"] and "picture in" in found.words
    assert {a.get("class") for tag, a in found.found if tag == "span"} >= {"n", "o", "s1", "c1"}
    assert "<x>" in found.words and "img" not in tags


@pytest.mark.parametrize(
    "text", ["$a<b$", r"\(a<b\)", "$$a<b$$", r"\[a<b\]", "\\[\na<b\n\\]", "$$\na<b\n$$", r"x $$a<b$$ y"]
)
def test_formulas_are_mathml(text: str) -> None:
    found = checked(text)
    tags = [tag for tag, _ in found.found]
    assert "math" in tags and "mo" in tags and "a<b" in found.words
    assert dict(found.found)["math"] == {"display": "block" if "$$" in text or "[" in text else "inline"}


@pytest.mark.parametrize(
    "text", ["it costs $5 and $6", "a \\$x\\$ b", "`$x$`", "\\\\(x", "$ x $", "x\\(", "\\[\\]", "$$"]
)
def test_what_is_no_formula_is_text(text: str) -> None:
    assert "math" not in [tag for tag, _ in checked(text).found]


@pytest.mark.parametrize(
    "latex",
    [
        r"\frac", "{" * 500, r"\left(", "x^" * 400, r"\sqrt{" * 300 + "}" * 300, "_{" * 600 + "}" * 600, "x" * 2001,
        r"\def\a{\a\a}\a", r"\newcommand{\x}{\x\x}\x", r"\DeclareMathOperator{\x}{y}", r"\begin{matrix}" * 140,
    ],
)  # fmt: skip
def test_a_formula_that_cannot_be_read_is_shown_as_it_is(latex: str) -> None:
    began = time.process_time()
    shown = formula(latex, True)
    assert time.process_time() - began < 1
    assert "math" in shown or shown == f'<code class="formula">{latex}</code>'
    if "def" in latex or "command" in latex or "Declare" in latex or len(latex) > 2000:
        assert shown.startswith("<code")


BOMBS = {
    "quotes": ">" * 10_000 + " x", "lists": "- " * 10_000 + "x", "both": "> - " * 6_000 + "x", "dollars": "$" * LONGEST,
    "dollars apart": "$a " * 10_000, "double dollars": "$$a\n" * 7_000, "brackets": r"\(" * 15_000, "links": "[" * LONGEST,
    "open links": "[a](" * 7_000, "stars": "**a" * 10_000, "ticks": "".join("`" * n + " " for n in range(240)),
    "angles": "<a " * 10_000, "columns": "|a" * 200 + "\n" + "|-" * 200 + "\n" + "a\n" * 14_000,
    "formulas": "".join(f"${n}_x$ " for n in range(3_000)), "references": "[a]: b\n" * 4_000,
    "code": "```python\n" + "(" * 19_000, "entities": "&a" * 15_000,
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.slow
def test_no_text_hangs_the_server(kind: str) -> None:
    text = BOMBS[kind][:LONGEST]
    began = time.process_time()
    shown = render(text)
    assert time.process_time() - began < 5
    assert len(shown) < 100 * LONGEST


def test_a_long_text_is_plain() -> None:
    text = "<b>*x*</b>\n" * LONGEST
    found = checked(text)
    assert [tag for tag, _ in found.found] == ["pre"] and found.words == text
