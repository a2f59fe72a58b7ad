"""The house's one rule of direction: each module imports from the rooms before it alone."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import thesis_lib

PACKAGE = Path(thesis_lib.__file__).parent
LAYERS = [
    {"__init__"},
    {"torchrun", "coercion", "config", "losses", "models", "progress", "hardware", "schedule"},
    {"files", "locks", "interruption", "failures", "orphans", "parameters", "latex"},
    {"runs", "splits", "grouped_split", "archive_members", "archives", "augment", "distributed"},
    {"stages", "data", "manifests"},
    {
        *("data_statistics", "image_hashes", "images", "new_images"),
        *("loaders", "checkpoints", "supcontrast"),
    },
    {"plateau", "resume", "training", "launcher"},
    {"pretrain", "run_data", "features", "heads", "calibration", "index", "lookup", "pruning"},
    {"probe", "evaluate", "leakage", "comparison", "final_test", "import_run"},
    {"novelty", "pruning_curve", "retrieval", "finished_model", "export", "predict", "ecotaxa"},
    {"figures", "published_results", "results", "table_files"},
    {"tables", "retrieval_tables", "quoted_numbers", "captions", "catalogue"},
    {"receipts", "chapter", "verify"},
    {
        *("explore", "execution", "workbook", "status", "demo"),
        *("job_queue", "resources", "cluster", "cluster_job", "parallel"),
        *("options", "report", "commands", "cli", "__main__", "launched"),
    },
]
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
TRAINING = {room for number, rooms in enumerate(LAYERS) for room in rooms if number < 10}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    """``thesis_lib.figures.style`` -> ``figures``; the package itself is ``__init__``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(("thesis_lib", *(part for part in parts if part != "__init__")))


def imports(source: str) -> set[str]:
    """Every module that a source imports, anywhere in it, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            if node.module == "thesis_lib":
                found |= {f"thesis_lib.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            raise AssertionError(f"{ast.unparse(node)} hides what it imports")
    return found


def imported_rooms(path: Path) -> set[str]:
    ours = {name for name in imports(path.read_text("utf-8")) if name.split(".")[0] == "thesis_lib"}
    return {room_of(name) for name in ours}


def test_imports_are_seen_wherever_they_stand():
    source = (
        "import a.b\ndef f():\n    from thesis_lib import data\n    from thesis_lib.runs import x"
    )
    assert imports(source) == {"a.b", "thesis_lib.data", "thesis_lib.runs"}


def test_every_module_has_its_room():
    rooms = {room_of(module_of(path)) for path in MODULES}
    assert rooms == set(LAYER)


@pytest.mark.parametrize("path", MODULES, ids=[module_of(path) for path in MODULES])
def test_module_imports_from_the_rooms_before_it_alone(path):
    room = room_of(module_of(path))
    later = {other for other in imported_rooms(path) if LAYER[other] > LAYER[room]}
    assert not later, f"{room} imports {later}"


def test_rooms_of_one_floor_form_no_circle():
    graph = {}
    for path in MODULES:
        room = room_of(module_of(path))
        graph.setdefault(room, set()).update(imported_rooms(path) - {room})
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("name", ["losses", "models"])
def test_losses_and_models_need_torch_and_timm_alone(name):
    tops = {module.split(".")[0] for module in imports((PACKAGE / f"{name}.py").read_text("utf-8"))}
    assert tops - set(sys.stdlib_module_names) <= {"torch", "timm"}


@pytest.mark.parametrize("room", sorted(TRAINING - {"__init__"}))
def test_nothing_that_trains_imports_a_plot(room):
    modules = imports((PACKAGE / f"{room}.py").read_text("utf-8"))
    plots = {"matplotlib", "seaborn"} & {module.split(".")[0] for module in modules}
    assert not plots and "figures" not in imported_rooms(PACKAGE / f"{room}.py")


def test_figures_know_nothing_of_runs_and_stages():
    for path in (PACKAGE / "figures").rglob("*.py"):
        assert imported_rooms(path) <= {"figures", "files"}, path.name


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_command_line_and_status_answer_without_the_heavy_libraries():
    loaded = loaded_by("import thesis_lib.cli, thesis_lib.status")
    heavy = {
        "torch",
        "timm",
        "torchvision",
        "pandas",
        "matplotlib",
        "sklearn",
        "scipy",
        "papermill",
        "submitit",
    }
    assert "thesis_lib" in loaded
    assert not loaded & heavy
