"""Files and names that README and docs mention exist, and so does the way through a stage."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("thesis_lib", "tests", "benchmarks", "notebooks", "docs")
STEP = re.compile(r"^\d+\. `(thesis_lib/[\w/]+\.py)`: (.*?)(?=^\d+\. |^\*\*|\Z)", re.M | re.S)
MOST_MODULES = 9
MADE_UP = {"class_sizes", "my_stage", "_my_stage"}  # what a reader would add


def defined(module: Path) -> set[str]:
    """Return the names of the functions, classes and variables of a module."""
    found = set()
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def imported(module: Path) -> set[str]:
    """Return the names that a module imports, such as ``run_stage``."""
    nodes = ast.walk(ast.parse(module.read_text()))
    return {
        alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[^`\s]*)`", page.read_text())
    missing = [path for path in named if "<" not in path and not list(ROOT.glob(path))]
    assert not missing


def test_names_that_the_architecture_mentions_exist():
    text = (ROOT / "docs" / "architecture.md").read_text()
    code = [
        file.read_text() for top in ("thesis_lib", "tests") for file in (ROOT / top).rglob("*.py")
    ]
    words = set(re.findall(r"\w+", "\n".join(code)))
    named = set(re.findall(r"`(\w{3,})`", text)) - MADE_UP
    assert len(named) > 50 and not named - words


@pytest.mark.parametrize("stage", ["pretrain", "probe_checkpoints", "retrieve"])
def test_a_reader_follows_a_stage_through_at_most_nine_modules(stage):
    """Each module defines what the page says of it, and an earlier one imports it from there."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    part = text.split(f"**`{stage}`**")[1].split("\n**`")[0].split("\n## ")[0]
    steps = [(ROOT / path, re.findall(r"`(\w+)`", words)) for path, words in STEP.findall(part)]
    assert 3 < len(steps) <= MOST_MODULES
    assert stage in defined(steps[0][0])
    known: set[str] = set()
    for place, (module, names) in enumerate(steps):
        own = [name for name in names if name in defined(module)]
        assert own, f"{module} defines none of {names}"
        assert not place or known & {module.stem, *own}, f"no module before {module} imports {own}"
        known |= imported(module)
