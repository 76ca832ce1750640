"""The page on the package index: the README with its relative links and pictures led to the repository, at this version's tag.

Everything else is in ``pyproject.toml``. Relative links work where the repository is shown, and nowhere else.
"""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent


def page() -> str:
    """Return the README with absolute links."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    source, version = (
        re.search(rf'^{key} = "(.+)"', project, re.MULTILINE).group(1) for key in ("Source", "version")
    )
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^\]]*\]\()(?![a-z]+:|#)", rf"\1{source}/raw/v{version}/", text)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?![a-z]+:|#)", rf"\1{source}/blob/v{version}/", text)


setup(long_description=page(), long_description_content_type="text/markdown")
