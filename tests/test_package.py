"""The package from outside: its public names, what importing it costs, its reading orders, and that every name has one home."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import paretune

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in (ROOT / "src/paretune").glob("*/**/__init__.py"))


@pytest.mark.parametrize("name", paretune.__all__)
def test_a_public_name_is_the_object_of_its_home(name):
    home = importlib.import_module(f"paretune.{paretune._HOMES[name]}")
    assert getattr(paretune, name) is getattr(home, name)
    assert name == "METHODS" or getattr(paretune, name).__doc__, f"{name} has no docstring"


def test_the_list_of_names_the_homes_and_the_docstring_agree():
    assert sorted(paretune._HOMES) == sorted(paretune.__all__)
    assert set(paretune.__all__) <= set(dir(paretune))
    assert [name for name in paretune.__all__ if f":`{name}`" not in paretune.__doc__] == []


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(AttributeError, match=r"no attribute 'Pareto'.*ScoredDataset"):
        _ = paretune.Pareto


def test_importing_the_package_loads_no_module_of_weight():
    script = "import sys; before = set(sys.modules); import paretune; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "paretune" in loaded
    assert loaded - {"paretune"} <= set(sys.stdlib_module_names)


def modules():
    """Return the path of every module of the package, by name."""
    sources = ROOT / "src"
    paths = {
        ".".join(path.relative_to(sources).with_suffix("").parts): path
        for path in (sources / "paretune").rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.relative_to(ROOT / "src")))
def test_the_docstring_of_a_package_names_each_of_its_modules(package):
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    files = {path.stem for path in package.glob("*.py")} - {"__init__"}
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    assert len(files) > 1
    assert sorted((files | folders) - set(re.findall(r"\w+", text))) == []


IMPORT = re.compile(r"^[ \t]*from (paretune\.[\w.]+) import (\([^)]*\)|[^\n]+)", re.MULTILINE)
"""A statement that takes names from a module of the package: its module, and the names. Quicker than a parse of every file."""


def defined(tree):
    """Return the names that a module defines rather than imports."""
    names, waiting = set(), list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {
                part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)
            }
        elif isinstance(node, (ast.If, ast.Try)):
            waiting += ast.iter_child_nodes(node)
    return names


@pytest.mark.slow
def test_a_name_is_imported_from_the_module_that_defines_it():
    paths = modules()
    homes = {name: defined(ast.parse(path.read_text(encoding="utf-8"))) for name, path in paths.items()}
    roots = [ROOT / folder for folder in ("src", "tests", "benchmarks")]
    wrong = []
    for path in sorted(path for root in roots for path in root.rglob("*.py")):
        for module, names in IMPORT.findall(path.read_text(encoding="utf-8")):
            if module not in homes:
                continue
            for name in re.findall(r"(\w+)(?: +as +\w+)? *(?:,|$)", re.sub(r"#.*|[()]|\n", " ", names)):
                if name not in homes[module] and f"{module}.{name}" not in paths:
                    wrong.append(f"{path.relative_to(ROOT)}: {name} from {module}")
    assert wrong == []
