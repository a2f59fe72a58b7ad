"""A small grid over seeds, balance and splits, of rare classes with a taxonomy; notebook 06."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from thesis_lib.cli.command_line import main
from thesis_lib.evaluation import final_test, probe_checkpoints
from thesis_lib.reporting.catalogue.tables import write_table
from thesis_lib.reporting.chapter import write_chapter
from thesis_lib.reporting.results import results_of_run
from thesis_lib.reporting.verification import verify
from thesis_lib.training.pretraining import pretrain
from thesis_lib.workbook.execution import execute_notebook
from thesis_lib.workbook.grid import check_grid, grids_of
from thesis_lib.workbook.plan import THESIS_TABLES, notebook_path, plan_of

SIZES = {"Acartia": 170, "Oithona": 70, "detritus": 24}  # many, some and few training images
TAXONOMY = """class,lineage,living
Acartia,Animalia>Copepoda>Acartia,yes
Oithona,Animalia>Copepoda>Oithona,yes
detritus,,no
"""
SETTINGS = {
    **{"backbone": "lenet5", "batch_size": 32, "image_size": 32, "epochs": 2, "save_every": 1},
    **{"learning_rate": 0.1, "head_epochs": 5, "head_views": 1, "workers": 0},
}


@pytest.fixture
def splits(tmp_path, monkeypatch) -> list[str]:
    """Two random splits of long-tailed digits, and one that keeps tens of files together."""
    monkeypatch.chdir(tmp_path)
    digits = load_digits()
    for label, (name, size) in enumerate(SIZES.items()):
        (tmp_path / "source" / name).mkdir(parents=True)
        for number, pixels in enumerate(digits.images[digits.target == label][:size]):
            image = Image.fromarray((pixels * 255 / 16).astype(np.uint8))
            image.save(tmp_path / "source" / name / f"{number:03d}.png")
    assert main(["split", "source", "data/mine", "--seed", "1", "2"]) == 0
    assert main(["split", "source", "data/grouped", "--group-by", r"^(\d\d)"]) == 0
    made = ["data/mine-seed1", "data/mine-seed2", "data/grouped"]
    for folder in made:
        (tmp_path / folder / "taxonomy.csv").write_text(TAXONOMY)
    return made


@pytest.mark.slow
def test_tables_of_seeds_strata_balance_rejection_taxonomy_and_splits(splits, capsys):
    grids = grids_of(SETTINGS | {"data": splits, "seed": [1, 2]})
    balanced = {"sampling": "balanced", "head_balance": "weighted", "tag": "balanced", "seed": 1}
    grids += grids_of(SETTINGS | balanced | {"data": splits[0]})
    runs = []
    for configs in grids:
        check_grid(configs)
        for config in configs:
            run = pretrain(config)
            probe_checkpoints(run)
            final_test(run)
            runs.append(run)
    assert len(runs) == 3 * 2 + 1

    last = plan_of(grids[2]).last
    assert last.parameters["other_splits"] == ["data/mine-seed2", "data/grouped"]
    reason = execute_notebook(
        notebook_path(THESIS_TABLES), last.executed, last.parameters, last.config
    )
    assert reason is None and last.is_done()
    of_one, name = results_of_run(runs[-1], "test"), last.config.data_name
    figures, compared = of_one.folder.parent, of_one.folder.parents[1] / f"{name}+2"

    def table(name: str, folder: Path = figures) -> pd.DataFrame:
        return pd.read_csv(folder / f"{name}.csv", dtype=str)

    assert table("seeds")["seeds"].tolist() == ["2", "1"]
    assert table("strata")["training images"].nunique() == 3
    assert len(table("balance")) == 1
    averaged = table("splits", compared)
    assert averaged["split"].tolist() == ["random", r"grouped by ^(\d\d)", "random"]
    assert averaged["splits"].tolist() == ["2", "1", "1"]
    assert averaged["runs"].tolist() == ["4", "2", "1"]
    assert len(table("split_loss", compared)) == 1
    assert "Training seeds: 1, 2." in (compared / "splits.tex").read_text()
    assert (compared / "splits.png").is_file()
    written = {name for name in ("rejection", "taxa", "living") if len(write_table(name, of_one))}
    assert written == {"rejection", "taxa", "living"}
    for folder in (figures, compared):
        verdict = verify(folder)
        assert verdict.agree > 5 and not verdict.differ and not verdict.unknown
    write_chapter(name)
    body = (figures / "chapter_body.tex").read_text()
    assert rf"\input{{\resultsfolder ../{compared.name}/splits}}" in body
    assert not verify(figures).differ

    # The command plans the grids in the same order.
    capsys.readouterr()
    options = [
        w for name, value in SETTINGS.items() for w in (f"--{name.replace('_', '-')}", str(value))
    ]
    assert main(["run", "--data", *splits, *options, "--seed", "1", "2", "--dry-run"]) == 0
    planned = capsys.readouterr().out.splitlines()
    assert planned.index("would run   mine-seed2: 01_data_stats") < planned.index(
        "would run   mine-seed1: 01_data_stats"
    )
    assert any(line.endswith("mine-seed1: 06_thesis_tables") for line in planned)
