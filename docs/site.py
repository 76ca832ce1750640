"""Lays out the pages of the documentation site in ``build/docs``, from where ``zensical build`` renders them (``make docs``).

    python docs/site.py

The pages stand under ``docs/`` with links that work where the repository is shown. On the site two things differ: pages from
outside ``docs/`` (CONTRIBUTING, CHANGELOG) are pages as the others, and a link to any other file of the repository leads to the
repository. Notebooks become Markdown, with the outputs that are saved in them.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
DOCS, OUT = ROOT / "docs", ROOT / "build/docs"
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PICTURES = {".png", ".svg"}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def repository() -> str:
    """Return the address of the repository, which ``pyproject.toml`` states."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^Source = "(.+)"', text, re.MULTILINE)
    assert found is not None
    return found.group(1)


def target(link: str, page: Path) -> str:
    """Return where a relative link of ``page`` leads on the site.

    Args:
        link: The link without its anchor.
        page: The file that has it.
    """
    path = Path(os.path.normpath(page.parent / link))
    inside = path.relative_to(ROOT).as_posix()
    if inside in OUTSIDE:
        path = DOCS / OUTSIDE[inside]
    elif path == ROOT / "README.md":
        path = DOCS / "index.md"
    elif path.suffix == ".ipynb":
        path = path.with_suffix(".md")
    elif DOCS not in path.parents or path.suffix not in {".md", *PICTURES}:
        kind = "tree" if path.is_dir() else "blob"
        return f"{repository()}/{kind}/main/{inside}"
    start = DOCS if page.parent == ROOT else page.parent
    return Path(os.path.relpath(path, start)).as_posix()


def linked(text: str, page: Path) -> str:
    """Return the text of ``page`` with its links as they are on the site; what stands in code is left alone."""
    parts = re.split(r"(```.*?```|`[^`\n]*`)", text, flags=re.DOTALL)
    for i in range(0, len(parts), 2):
        parts[i] = LINK.sub(lambda match: target(match[1], page) + (match[2] or ""), parts[i])
    return "".join(parts)


def convert(notebook: Path, out: Path) -> None:
    """Write a notebook as Markdown to ``out``, with its pictures beside it."""
    exporter = MarkdownExporter()  # type: ignore[no-untyped-call]
    resources = {"output_files_dir": f"{notebook.stem}_files"}
    content = nbformat.read(notebook, as_version=4)
    body, made = exporter.from_notebook_node(content, resources)
    for name, data in made["outputs"].items():
        picture = out.parent / name
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(data)
    source = f"{repository()}/blob/main/{notebook.relative_to(ROOT).as_posix()}"
    note = f"*A notebook: [its source]({source}). The outputs are of a real run.*\n\n"
    first, rest = linked(body, notebook).split("\n", 1)
    out.write_text(f"{first}\n\n{note}{rest}", encoding="utf-8")


def lay_out() -> list[Path]:
    """Write all pages anew and return them."""
    shutil.rmtree(OUT, ignore_errors=True)
    pages = {path: OUT / path.relative_to(DOCS) for path in sorted(DOCS.rglob("*")) if path.is_file()}
    pages |= {ROOT / name: OUT / page for name, page in OUTSIDE.items()}
    for path, out in pages.items():
        if path.suffix not in {".md", ".ipynb", *PICTURES}:
            continue
        out.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            out.write_text(linked(path.read_text(encoding="utf-8"), path), encoding="utf-8")
        elif path.suffix == ".ipynb":
            convert(path, out.with_suffix(".md"))
        else:
            shutil.copyfile(path, out)
    return sorted(OUT.rglob("*.md"))


if __name__ == "__main__":
    print(f"{len(lay_out())} pages in {OUT}")
