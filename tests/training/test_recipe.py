"""The thesis's experiments, as the README gives them, against its recipe, number by number.

The recipe is typed here a second time on purpose: from the thesis's notes on CNN training, the
public SupContrast code and the author's public scripts.
"""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import write_classes
from thesis_lib.cli.command_line import main
from thesis_lib.config import RunConfig
from thesis_lib.data.splits import split_dataset
from thesis_lib.models import create_backbone
from thesis_lib.runs.plateau import epochs_to_probe
from thesis_lib.training.pretraining import create_model

README = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
PAGE = Path(__file__).parents[2].joinpath("docs", "experiments.md").read_text(encoding="utf-8")

PRETRAINING = {
    "method": "supcon",
    "fit": "crop",
    "image_size": 224,
    "projection_dim": 128,
    "temperature": 0.07,
    "base_temperature": 0.07,
    "epochs": 1000,
    "learning_rate": 0.016,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "decay_rate": 0.1,
    "warmup_epochs": 10,
    "warmup_from": 0,
    "save_every": 50,
}
PROBING = {
    "probe_from": 700,
    "head_epochs": 100,
    "head_batch_size": 256,
    "head_learning_rates": [0.25],
    "head_decay_epochs": [60, 75, 90],
    "head_decay_rate": 0.2,
}
LINEAR_HEAD = {
    "data": "data/DYB-linearHead",
    "mean": [0.0418, 0.0353, 0.0409],
    "std": [0.0956, 0.0911, 0.0769],
    **PROBING,
}
COSINE = {
    "data": "data/DYB-cosine",
    "mean": [0.0419, 0.0355, 0.0410],
    "std": [0.0959, 0.0913, 0.0771],
}
EXPERIMENTS = [
    {**PRETRAINING, **LINEAR_HEAD, "backbone": "resnet50", "batch_size": 64},
    {**PRETRAINING, **LINEAR_HEAD, "backbone": "resnet50", "batch_size": 32},
    {**PRETRAINING, **LINEAR_HEAD, "backbone": "seresnext50_32x4d", "batch_size": 32},
    {**PRETRAINING, **COSINE, "backbone": "resnet50", "batch_size": 32},
]


def experiment_commands():
    section = README.split("### The four experiments of the thesis")[1].split("\n###")[0]
    block = section.split("```")[1].replace("\\\n", " ")
    return [shlex.split(line) for line in block.splitlines() if line.strip()]


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Create small data sets in place of DYB-PlanktonNet's two splits."""
    monkeypatch.chdir(tmp_path)
    write_classes(tmp_path / "classes", images=40)
    split_dataset(tmp_path / "classes", tmp_path / "data" / "DYB-linearHead", "linear-head")
    split_dataset(tmp_path / "classes", tmp_path / "data" / "DYB-cosine", "cosine")
    return tmp_path


def printed_settings(out):
    return {name: json.loads(value) for name, value in re.findall(r"^    (\w+) = (.+)$", out, re.M)}


@pytest.mark.parametrize("number", range(4))
def test_command_of_the_readme_is_the_thesiss_experiment(stand_ins, capsys, monkeypatch, number):
    monkeypatch.setattr("thesis_lib.workbook.grid.print_estimates", lambda *_: None)  # slow
    commands = experiment_commands()
    assert len(commands) == 4
    assert commands[number][0] == "thesis"
    assert main([*commands[number][1:], "--dry-run"]) == 0
    out = capsys.readouterr().out
    settings = printed_settings(out)
    assert set(settings) == set(RunConfig.field_names())  # every setting is printed
    expected = EXPERIMENTS[number]
    assert {name: settings[name] for name in expected} == expected
    assert settings["small_images"] is None  # by default, used only up to 64 px
    assert not (stand_ins / "runs").exists()
    assert ("03 and 04 are left out" in out) == (number == 3)
    assert out.count("would run") == (4 if number == 3 else 6)


def test_thesis_probes_seven_checkpoints_and_the_rule_of_the_recipe(stand_ins):
    config = RunConfig(**EXPERIMENTS[0])

    class Run:  # stands for a trained run
        def __init__(self):
            self.config, self.path = config, stand_ins
            self.metrics_file = stand_ins / "metrics.csv"
            self.checkpoints = stand_ins / "checkpoints"

    run = Run()
    run.checkpoints.mkdir()
    for epoch in range(50, 1001, 50):
        (run.checkpoints / f"epoch_{epoch:04d}.pth").touch()
    rows = "".join(f"{epoch},{1000 / epoch}\n" for epoch in range(1, 1001))
    run.metrics_file.write_text("epoch,loss\n" + rows)
    assert epochs_to_probe(run) == [700, 750, 800, 850, 900, 950, 1000]


@pytest.mark.parametrize("name", ["resnet50", "seresnext50_32x4d"])
def test_thesiss_networks(name):
    config = RunConfig(backbone=name)
    backbone = create_backbone(name, config.small_images, config.image_size)
    assert backbone.num_features == 2048
    assert backbone.conv1.kernel_size == (7, 7) and backbone.conv1.stride == (2, 2)
    layers = create_model(config, 87).projection.layers
    assert [tuple(p.shape) for p in layers.parameters()] == [
        *((2048, 2048), (2048,), (128, 2048), (128,)),
    ]
    assert [type(layer).__name__ for layer in layers] == ["Linear", "ReLU", "Linear"]


@pytest.mark.parametrize(
    ("option", "other"),
    [
        ("--head-learning-rates", {"head_learning_rates": (0.25, 2.5)}),
        ("--warmup-from", {"warmup_from": 0.01}),
        ("--learning-rate", {"learning_rate": 0.031}),
    ],
)
def test_where_notes_and_scripts_disagree_the_docs_have_a_line_and_the_config_a_field(
    option, other
):
    assert "docs/experiments.md#where-notes-and-scripts-disagree" in README
    section = PAGE.split("## Where notes and scripts disagree")[1].split("\n\n")[2]
    (line,) = [line for line in section.splitlines() if line.startswith(f"| `{option}`")]
    (name,) = other
    value = other[name]
    shown = value[-1] if isinstance(value, tuple) else value
    assert str(shown) in line
    default = getattr(RunConfig(), name)
    assert f"| {default[0] if isinstance(default, tuple) else default:g}" in line
    assert getattr(RunConfig(**other), name) == value
