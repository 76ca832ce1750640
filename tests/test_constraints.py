"""The pinned versions: on each Python that the project names, pip is asked for none that refuses it."""

import importlib.metadata
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
LAST_PATCH = 20
"""More patch releases than any version of Python has had."""

PINS = {
    pin.name: pin
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
    for pin in [Requirement(line)]
}


def pythons() -> list[str]:
    """Return each release that the project's classifiers name."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.findall(r"Python :: (3\.\d+)", project)
    (least,) = re.findall(r'^requires-python = ">=(.+)"', project, re.MULTILINE)
    assert len(named) > 3 and named[0] == least
    return [f"{version}.{patch}" for version in named for patch in range(LAST_PATCH)]


def refused(pin: Requirement, needs: str) -> list[str]:
    """Return the Pythons on which a pin holds although its package, which ``needs`` some, cannot be had there."""
    return [
        python
        for python in pythons()
        if pin.marker is None
        or pin.marker.evaluate({"python_version": python.rpartition(".")[0], "python_full_version": python})
        if python not in SpecifierSet(needs)
    ]


def test_a_pin_holds_only_where_its_package_can_be_had():
    installed = {
        re.sub(r"[-_.]+", "-", each.name.lower()): each for each in importlib.metadata.distributions()
    }
    here = {
        name: found
        for name, pin in PINS.items()
        if (found := installed.get(re.sub(r"[-_.]+", "-", name.lower()))) and found.version in pin.specifier
    }
    assert len(here) > 50
    needs = {name: found.metadata.get("Requires-Python", "") for name, found in here.items()}
    assert {name: bad[-1] for name in here if (bad := refused(PINS[name], needs[name]))} == {}


def test_a_pin_without_its_bound_is_found():
    needs = ">=3.11.5"
    assert refused(Requirement("one==1"), needs)[-1] == "3.11.4"
    assert refused(Requirement('one==1 ; python_version >= "3.11"'), needs)[0] == "3.11.0"
    assert refused(Requirement('one==1 ; python_full_version >= "3.11.5"'), needs) == []
