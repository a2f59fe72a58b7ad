"""Splits for cross-validation: each image, and each group, is in the test split of one fold."""

import json

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from tests.data.splits.test_recipes import make_source, placed
from thesis_lib.cli.command_line import main
from thesis_lib.data.splits import split_dataset
from thesis_lib.data.splits.folds import split_fold
from thesis_lib.data.splits.grouping import by_pattern
from thesis_lib.errors import InputError

FILES = {
    "Acartia sp.": [f"cruise{n % 7}_{n:03d}.png" for n in range(61)],
    "copépode": [f"cruise{n % 5}_{n:03d}.png" for n in range(17)],
    "rare": [f"cruise{n}_{n:03d}.png" for n in range(5)],
}
LABELS = np.repeat([0, 1, 2], [61, 17, 5])
IMAGES = [(name, file) for name, files in FILES.items() for file in files]


def test_images(plan: dict) -> set[tuple[str, str]]:
    return {(name, file) for name, splits in plan.items() for file in splits["test"]}


test_images.__test__ = False


def folds(recipe: str, grouping=None, num_folds: int = 5) -> list[dict]:
    numbers = range(1, num_folds + 1)
    return [split_fold(FILES, grouping, recipe, 3, (number, num_folds)) for number in numbers]


@pytest.mark.parametrize("recipe", ["linear-head", "cosine"])
def test_each_image_is_tested_once_in_the_folds_of_scikit_learn(recipe):
    plans = folds(recipe)
    tested = [test_images(plan) for plan in plans]
    oracle = StratifiedKFold(5, shuffle=True, random_state=np.random.RandomState(3))
    expected = [test for _, test in oracle.split(LABELS, LABELS)]
    assert tested == [{IMAGES[i] for i in fold} for fold in expected]
    assert len(set().union(*tested)) == sum(map(len, tested)) == len(IMAGES)
    for number, plan in enumerate(plans):
        for name, splits in plan.items():
            assert sorted(f for files in splits.values() for f in files) == sorted(FILES[name])
            assert all(splits.values())  # each split has the class
            if recipe == "linear-head":
                assert splits["val"] == plans[(number + 1) % 5][name]["test"]


def test_groups_stay_together_and_are_tested_once():
    grouping = by_pattern(r"^(cruise\d)")
    plans = folds("linear-head", grouping)
    of = {image: grouping.of(*image) for image in IMAGES}
    groups = np.array([of[image] for image in IMAGES])
    tested = [{of[image] for image in test_images(plan)} for plan in plans]
    assert sorted(group for fold in tested for group in fold) == sorted(set(groups))
    numbers = np.unique(groups, return_inverse=True)[1]  # in the order of their first image
    oracle = StratifiedGroupKFold(5, shuffle=True, random_state=np.random.RandomState(3))
    expected = [test for _, test in oracle.split(LABELS, LABELS, numbers)]
    assert tested == [{groups[i] for i in fold} for fold in expected]
    for plan in plans:
        for splits in plan.values():
            sets = [{grouping.of("", file) for file in files} for files in splits.values()]
            assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]


def test_what_cannot_be_folded_is_refused_in_one_line(tmp_path):
    source = make_source(tmp_path, {"a": 12, "b": 4})
    for options, words in (
        ({"folds": 2}, "--folds must be at least 3 for the recipe linear-head, not 2"),
        ({"folds": 1, "recipe": "cosine"}, "must be at least 2 for the recipe cosine, not 1"),
        ({"folds": 5}, r"with 5 folds needs at least 5 images per class; too few in 'b' \(4\)"),
        ({"folds": 3, "fold": 4}, "there is no fold 4 of 3"),
        ({"folds": 3, "group_by": "^img"}, "makes only 1 groups, too few for 3 folds"),
        ({"folds": 3, "group_by": "(.)", "test_group": ["1"]}, "cannot be used with --test-group"),
    ):
        with pytest.raises(InputError, match=words):
            split_dataset(source, tmp_path / "out", **options)
    one_group = {"a": ["x_1", "x_2", "x_3"], "b": ["x_4", "y_1", "z_1", "w_1"]}
    with pytest.raises(InputError, match="train would have no images of 'a'"):
        for number in range(1, 4):
            split_fold(one_group, by_pattern("^(.)_"), "linear-head", 42, (number, 3))
    assert not (tmp_path / "out").exists()


def test_the_command_makes_all_folds_or_seeds_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_source(tmp_path, {"a b": 12, "b": 9})
    assert main(["split", "source", "data/mine", "--folds", "3", "--seed", "7"]) == 0
    said = capsys.readouterr().out
    made = [f"data/mine-fold{number}" for number in (1, 2, 3)]
    assert f"continue with: thesis run --data {' '.join(made)}" in said
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [m[5:] for m in made]
    for number, folder in enumerate(made, 1):
        told = json.loads((tmp_path / folder / "dataset.json").read_text())
        assert (told["fold"], told["folds"], told["seed"]) == (number, 3, 7)
    tested = [placed(tmp_path / folder)["test", "a b"] for folder in made]
    assert sorted(f for files in tested for f in files) == [f"img{n:03d}.png" for n in range(12)]

    assert main(["split", "source", "data/mine", "--seed", "1", "2"]) == 0
    assert "thesis run --data data/mine-seed1 data/mine-seed2" in capsys.readouterr().out
    assert main(["split", "source", "data/alone", "--seed", "2"]) == 0
    assert placed(tmp_path / "data/alone") == placed(tmp_path / "data/mine-seed2")
    assert placed(tmp_path / "data/alone") != placed(tmp_path / "data/mine-seed1")


def test_nothing_is_made_if_a_fold_exists_or_options_clash(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_source(tmp_path, {"a": 12})
    (tmp_path / "data" / "mine-fold2").mkdir(parents=True)
    (tmp_path / "data" / "mine-fold2" / "notes.txt").write_text("mine")
    for options, words in (
        (["--folds", "3"], "data/mine-fold2 already exists"),
        (["--folds", "2"], "data/mine-fold2 already exists"),
        (["--folds", "3", "--seed", "1", "2"], "give a single --seed"),
        (["--seed", "1", "1"], "--seed names a seed twice"),
        (["--folds", "1"], "--folds must be at least 3"),
        (["--folds", "0"], "--folds must be at least 3"),
        (["--folds", "3", "--manifest", "x.csv"], "--folds cannot be used with --manifest"),
    ):
        assert main(["split", "source", "data/mine", *options]) == 2
        assert words in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine-fold2"]
