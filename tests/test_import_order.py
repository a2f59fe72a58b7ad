"""The house's one rule of direction: each module imports from the rooms before it alone."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import thesis_lib

PACKAGE = Path(thesis_lib.__file__).parent
ROOMS = {"data", "evaluation", "prediction", "reporting", "runs", "system", "training", "workbook"}
LAYERS = [
    {"__init__", *ROOMS},
    {
        "system.torchrun",
        "coercion",
        "config",
        "losses",
        "models",
        "system.progress",
        "system.device",
        "training.schedule",
    },
    {
        "system.files",
        "system.locks",
        "system.signals",
        "system.torch_errors",
        "system.processes",
        "workbook.parameters",
        "reporting.latex",
    },
    {
        "runs.directory",
        "data.splits",
        "data.grouped_split",
        "data.archive_members",
        "data.archives",
        "data.transforms",
        "system.distributed",
    },
    {"runs.stages", "data.datasets", "data.manifests"},
    {
        *("data.statistics", "data.image_hashes", "data.cache", "prediction.new_images"),
        *("data.loaders", "training.checkpoints", "training.supcontrast"),
    },
    {"evaluation.plateau", "training.resume", "training.engine", "training.launcher"},
    {
        "training.pretraining",
        "training.stage",
        "evaluation.features",
        "evaluation.linear_heads",
        "evaluation.calibration",
        "evaluation.knn",
        "evaluation.lookup_table",
        "evaluation.pruning",
    },
    {
        "evaluation.probing",
        "evaluation.metrics",
        "data.leakage",
        "evaluation.comparison",
        "evaluation.testing",
        "training.supcontrast_import",
    },
    {
        "evaluation.novelty",
        "evaluation.pruning_curve",
        "evaluation.retrieval",
        "prediction.finished_model",
        "prediction.export",
        "prediction.predictions",
        "prediction.ecotaxa",
    },
    {"figures", "reporting.published_results", "reporting.results", "reporting.table_files"},
    {
        "reporting.tables",
        "reporting.retrieval_tables",
        "reporting.numbers",
        "reporting.figure_catalogue",
        "reporting.table_catalogue",
    },
    {"workbook.receipts", "reporting.chapter", "reporting.verification"},
    {
        *(
            "reporting.widgets",
            "workbook.execution",
            "workbook.grid",
            "workbook.status",
            "data.demo",
        ),
        *(
            "workbook.slurm_queue",
            "workbook.resources",
            "workbook.slurm",
            "workbook.slurm_job",
            "workbook.parallel",
        ),
        *(
            "cli.options",
            "reporting.report",
            "cli.commands",
            "cli.command_line",
            "cli.launched",
        ),
    },
]
LAYERS.append({"cli", "__main__"})
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
TRAINING = {room for number, rooms in enumerate(LAYERS) for room in rooms if number < 10}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    """``thesis_lib.figures.style`` -> ``figures``, ``thesis_lib.data.cache`` -> ``data.cache``."""
    name = module.removeprefix("thesis_lib").removeprefix(".")
    together = ("figures", "reporting.widgets", "reporting.report")
    return next((room for room in together if name.startswith(room)), name) or "__init__"


def path_of(room: str) -> Path:
    return PACKAGE.joinpath(*room.removeprefix("thesis_lib.").split(".")).with_suffix(".py")


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
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                modules = {name for name in names if path_of(name).is_file()}
                found |= modules or {node.module}
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


@pytest.mark.parametrize("room", sorted(TRAINING - {"__init__", *ROOMS}))
def test_nothing_that_trains_imports_a_plot(room):
    modules = imports(path_of(room).read_text("utf-8"))
    plots = {"matplotlib", "seaborn"} & {module.split(".")[0] for module in modules}
    assert not plots and "figures" not in imported_rooms(path_of(room))


def test_figures_know_nothing_of_runs_and_stages():
    for path in (PACKAGE / "figures").rglob("*.py"):
        assert imported_rooms(path) <= {"figures", "system.files"}, path.name


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_command_line_and_status_answer_without_the_heavy_libraries():
    loaded = loaded_by("import thesis_lib.cli.command_line, thesis_lib.workbook.status")
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
