"""The page's script: modules of the plot and scripts of the page as one text, since a page that opens from disk imports nothing."""

from __future__ import annotations

import re
from importlib.resources import files

MODULES = (
    "elements.js", "shapes.js", "scene.js", "scatter.js", "parallel.js", "figure.js", "files.js", "controls.js", "plot.js",
)  # fmt: skip
"""The modules in ``plot/``, each after those that it imports. The studio serves the same files."""
SCRIPTS = ("words.js", "front.js", "answers.js", "tables.js", "report.js")

_IMPORT = re.compile(r"^import [^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class) )", re.MULTILINE)


def template(name: str) -> str:
    """Return the text of a file in ``templates/``."""
    return (files("paretune.reports") / "templates" / name).read_text(encoding="utf-8")


def plot_file(name: str) -> str:
    """Return the text of a file in ``plot/``."""
    return (files("paretune.reports") / "plot" / name).read_text(encoding="utf-8")


def page_script() -> str:
    """Return the script of a report. The modules share a scope of their own, which gives the page what it uses of them."""
    modules = "\n".join(_EXPORT.sub("", _IMPORT.sub("", plot_file(name))) for name in MODULES)
    names = "{ FrontPlot, element, number, save }"
    plot = f"const {names} = (() => {{\n{modules}return {names};\n}})();\n"
    return '(() => {\n"use strict";\n' + plot + "\n".join(map(template, SCRIPTS)) + "})();\n"
