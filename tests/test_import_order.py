"""The rule of imports: each room imports from the rooms below it, and through their faces."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import thesis_lib

PACKAGE = Path(thesis_lib.__file__).parent
# From the ground up; rooms of one floor know nothing of each other.
FLOORS = [
    {"errors", "coercion", "lazy", "methods", "heads", "losses"},
    {"ranges", "backbones"},
    {"config", "models"},
    {"system"},
    {"data", "runs", "figures"},
    {"training"},
    {"evaluation", "workbook"},
    {"prediction", "reporting"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
HEAVY = {
    *("torch", "timm", "torchvision", "pandas", "matplotlib", "sklearn", "scipy", "papermill"),
    "submitit",
}


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module: str) -> str:
    """``data.cache`` -> ``data``."""
    return module.split(".")[0]


def all_imports(source: str) -> set[str]:
    """Every module or name that a source imports, anywhere in it, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            raise AssertionError(f"{ast.unparse(node)} hides what it imports")
    return found


def imports_of(path: Path) -> set[str]:
    """Every import of a module; thesis_lib.lazy imports whatever a face names."""
    return set() if path.name == "lazy.py" else all_imports(path.read_text("utf-8"))


def own_imports(path: Path) -> Iterator[str]:
    """What a module imports of thesis_lib: ``data.cache.open_images``."""
    for name in imports_of(path):
        if name.startswith("thesis_lib."):
            yield name.removeprefix("thesis_lib.")


def by_module(paths):
    return pytest.mark.parametrize("path", paths, ids=[module_of(path) for path in paths])


def test_imports_are_seen_wherever_they_stand():
    source = (
        "import a.b\ndef f():\n    from thesis_lib import data\n    from thesis_lib.runs import x"
    )
    assert all_imports(source) == {"a.b", "thesis_lib.data", "thesis_lib.runs.x"}


def test_every_module_has_its_floor():
    assert {room_of(module_of(path)) for path in MODULES} == set(FLOOR)


@by_module(MODULES)
def test_a_room_imports_from_the_rooms_below_it_alone(path):
    room = room_of(module_of(path))
    others = {room_of(name) for name in own_imports(path)} - {room}
    assert {other for other in others if FLOOR[other] >= FLOOR[room]} == set()


def test_modules_form_no_circle():
    names = {module_of(path) for path in MODULES}
    graph = {}
    for path in MODULES:
        if "\nHOMES = {" not in path.read_text("utf-8"):  # a face imports nothing until it is used
            graph[module_of(path)] = {
                module_that_defines(name, names) for name in own_imports(path)
            }
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def module_that_defines(name: str, modules: set[str]) -> str:
    """``data.DataSet`` and ``data.datasets.DataSet`` -> ``data.datasets``."""
    room, _, rest = name.partition(".")
    if name in modules:
        return name
    if room in ROOMS and rest and "." not in rest:
        home = importlib.import_module(f"thesis_lib.{room}").HOMES.get(rest, rest)
        return f"{room}.{home or rest}"
    return name.rpartition(".")[0]


@by_module(MODULES)
def test_other_rooms_are_entered_through_their_faces(path):
    """A name is taken from a room only if the room's face lists it, or its whole module."""
    private = set()
    for name in own_imports(path):
        room, _, rest = name.partition(".")
        if room in ROOMS and room != room_of(module_of(path)) and rest:
            homes = importlib.import_module(f"thesis_lib.{room}").HOMES
            home, _, last = rest.rpartition(".")
            # "from thesis_lib.data import DataSet", "... import transforms",
            # "from thesis_lib.data.datasets import DataSet", "...transforms import to_float"
            public = rest in homes or homes.get(last) == home or homes.get(home, home) is None
            public = public and not last.startswith("_")
            private |= set() if public else {name}
    assert not private


@pytest.mark.parametrize("room", ROOMS)
class TestEachFace:
    def test_names_5_to_15_and_all_are_there(self, room):
        face = importlib.import_module(f"thesis_lib.{room}")
        assert 5 <= len(face.__all__) <= 15
        assert all(getattr(face, name) is not None for name in face.__all__)
        assert set(face.__all__) <= set(dir(face))
        with pytest.raises(AttributeError, match="nothing_of_the_kind"):
            getattr(face, "nothing_of_the_kind")  # noqa: B009

    def test_says_what_the_room_is_for_reads_and_writes(self, room):
        text = importlib.import_module(f"thesis_lib.{room}").__doc__
        assert all(f"\n{word} " in text for word in ("Reads", "Writes", "Imports"))

    def test_says_what_it_imports(self, room):
        text = importlib.import_module(f"thesis_lib.{room}").__doc__
        named = set(re.search(r"^Imports (.*)\.$", text, re.MULTILINE)[1].split(", "))
        paths = [path for path in MODULES if room_of(module_of(path)) == room]
        used = {room_of(name) for path in paths for name in own_imports(path)}
        assert named == used - {room, "lazy"}

    def test_has_3_to_14_files(self, room):
        entries = [
            entry
            for entry in (PACKAGE / room).iterdir()
            if entry.suffix == ".py" or (entry / "__init__.py").is_file()
        ]
        assert 3 <= len(entries) - 1 <= 14


@by_module([PACKAGE / "__init__.py", *MODULES])
def test_no_file_is_longer_than_300_lines(path):
    assert len(path.read_text("utf-8").splitlines()) <= 300


@pytest.mark.parametrize("name", ["losses", "heads", "backbones", "models"])
def test_losses_and_models_need_torch_and_timm_alone(name):
    path = PACKAGE / f"{name}.py"
    tops = {module.split(".")[0] for module in all_imports(path.read_text("utf-8"))}
    assert tops - set(sys.stdlib_module_names) <= {"torch", "timm", "thesis_lib"}
    assert {room_of(own) for own in own_imports(path)} <= {"heads", "backbones"}


@by_module([path for path in MODULES if FLOOR[room_of(module_of(path))] <= FLOOR["evaluation"]])
def test_nothing_that_trains_imports_a_plot(path):
    if room_of(module_of(path)) == "figures":
        return
    tops = {module.split(".")[0] for module in imports_of(path)}
    assert not tops & {"matplotlib", "seaborn"}
    assert "figures" not in {room_of(name) for name in own_imports(path)}


def test_figures_know_nothing_of_runs_and_stages():
    for path in (PACKAGE / "figures").rglob("*.py"):
        assert {room_of(name) for name in own_imports(path)} <= {"figures", "system", "lazy"}


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_a_split_loads_neither_torch_nor_pandas():
    loaded = loaded_by(
        "from thesis_lib.data.sources import read_source, split_by_manifest, unpacked\n"
        "from thesis_lib.data.splits import describe_groups, split_listing"
    )
    assert not loaded & HEAVY


@pytest.mark.parametrize("room", ROOMS)
def test_a_face_loads_no_heavy_library(room):
    loaded = loaded_by(f"import thesis_lib.{room}")
    assert "thesis_lib" in loaded and not loaded & HEAVY


def test_a_run_with_lenet5_loads_neither_timm_nor_torchvision():
    loaded = loaded_by(
        "from thesis_lib.backbones import create_backbone\n"
        "from thesis_lib.evaluation import final_test, probe_checkpoints, retrieve\n"
        "from thesis_lib.training import pretrain\n"
        "create_backbone('lenet5', None, 32)"
    )
    assert "torch" in loaded and not loaded & {"timm", "torchvision"}


def test_tables_and_figures_load_no_backbones():
    loaded = loaded_by(
        "from thesis_lib.reporting import draw, results_of_data, results_of_runs, write_table\n"
        "from thesis_lib.reporting.verification import verify"
    )
    assert "pandas" in loaded and not loaded & {"timm", "torchvision"}


@pytest.mark.parametrize("command", ["probe", "test", "retrieve", "export", "split"])
def test_a_misspelt_run_or_folder_is_answered_before_a_heavy_library_is_loaded(command):
    words = [command, "no such run"] + ["data/new"] * (command == "split")
    loaded = loaded_by(f"from thesis_lib.cli.command_line import main\nassert main({words})")
    assert "thesis_lib" in loaded and not loaded & HEAVY


# The modules of these rooms that are about torch, or papermill, themselves.
LOADING = {
    *("system.device", "system.distributed", "system.torch_errors"),
    "workbook.execution",
}


def test_runs_system_workbook_and_cli_load_no_heavy_library():
    """So ``thesis status`` and ``thesis --help`` answer at once."""
    rooms = {"runs", "system", "workbook", "cli"}
    names = {module_of(path) for path in MODULES if room_of(module_of(path)) in rooms}
    assert names > LOADING
    imports = ", ".join(f"thesis_lib.{name}" for name in sorted(names - LOADING))
    loaded = loaded_by(f"import {imports}")
    assert "thesis_lib" in loaded and not loaded & HEAVY
