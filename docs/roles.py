"""Griffe extension for the reference: the cross-references of docstrings become code, which Markdown shows."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|data|meth|attr|mod|exc):`~?([^`<]+?)`")


class Roles(griffe.Extension):
    """Replaces ``:class:`Row``` and its kind by the name as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring; griffe calls this for every object that it reads."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value).replace("``", "`")
