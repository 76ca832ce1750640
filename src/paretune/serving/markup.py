"""The elements and attributes that the HTML of an answer may have; everything else is removed."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import nh3

TAGS = frozenset([
    "a", "blockquote", "br", "code", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s", "span", "strong", "table",
    "tbody", "td", "th", "thead", "tr", "ul",
    "math", "menclose", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover", "mpadded", "mphantom", "mroot", "mrow", "ms", "mspace",
    "msqrt", "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder", "munderover",
])  # fmt: skip
ATTRIBUTES: dict[str, set[str]] = {
    "*": set(),
    "a": {"href"},
    "ol": {"start"},
    "math": {"display"},
    "menclose": {"notation"},
    "mfrac": {"linethickness"},
    "mi": {"mathvariant"},
    "mo": {"accent", "fence", "form", "lspace", "maxsize", "minsize", "rspace", "separator", "stretchy", "symmetric"},
    "mover": {"accent"},
    "mpadded": {"depth", "height", "lspace", "voffset", "width"},
    "mspace": {"depth", "height", "width"},
    "mstyle": {"displaystyle", "mathcolor", "scriptlevel"},
    "mtable": {"columnlines", "columnspacing", "displaystyle", "rowlines", "rowspacing"},
    "mtd": {"columnalign", "columnspan", "rowspan"},
    "mtext": {"mathvariant"},
    "munder": {"accentunder"},
    "munderover": {"accent", "accentunder"},
}  # fmt: skip
SCHEMES = frozenset({"http", "https", "mailto"})
ALIGNED = frozenset({"left", "center", "right"})
REL = "noopener noreferrer nofollow"


@cache
def classes() -> dict[str, frozenset[str]]:
    """Return element -> classes that it may have: those of coloured code, of a formula's source, of plain text and of cells."""
    from pygments.token import STANDARD_TYPES

    coloured = frozenset(name for name in STANDARD_TYPES.values() if name)
    return {
        "span": coloured,
        "code": frozenset({"formula"}),
        "pre": frozenset({"plain"}),
        "td": ALIGNED,
        "th": ALIGNED,
    }


@cache
def cleaner() -> nh3.Cleaner:
    """Return what removes all but the listed elements and attributes; links go out to the web and to mail alone."""
    import nh3

    return nh3.Cleaner(
        tags=TAGS,
        clean_content_tags=set(),
        attributes=ATTRIBUTES,
        tag_attribute_values={"a": {"target": {"_blank"}}},
        allowed_classes=classes(),
        url_schemes=SCHEMES,
        url_relative="deny",
        link_rel=REL,
    )
