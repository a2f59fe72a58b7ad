"""RunConfig has the thesis's values as defaults and refuses bad values in one clear line."""

import json
import math
from dataclasses import FrozenInstanceError, fields

import pytest

from tests.training.test_recipe import PRETRAINING
from thesis_lib.config import COMPARISON, IDENTITY, MACHINE, PRETRAIN, PROBE, RETRIEVE, RunConfig
from thesis_lib.errors import InputError, nearest
from thesis_lib.workbook.parameters import notebook_settings, settings_table

RECIPE = {  # the thesis's recipe, repeated here on purpose
    "backbone": "resnet50",
    "batch_size": 32,
    "seed": 42,
    **PRETRAINING,
    "plateau_share": 0.02,
    "head_epochs": 100,
    "head_batch_size": 256,
    "head_learning_rates": (0.25,),
    "head_decay_epochs": (60, 75, 90),
    "head_decay_rate": 0.2,
    "mean": None,
    "std": None,
    "probe_from": None,
}

BAD = [
    ("sampling", "random"),
    ("sampling", None),
    ("head_balance", "balanced"),
    ("head_balance", 1),
    ("data", ""),
    ("data", "  "),
    ("data", 3),
    ("backbone", ""),
    ("backbone", None),
    ("batch_size", 0),
    ("batch_size", 1),
    ("batch_size", -32),
    ("batch_size", 2.5),
    ("batch_size", "32"),
    ("batch_size", True),
    ("batch_size", None),
    ("batch_size", math.nan),
    ("batch_size", math.inf),
    ("batch_size", [32]),
    ("seed", -1),
    ("seed", 2**32),
    ("weights", 3),
    ("backbone_learning_rate", 0),
    ("frozen_epochs", -1),
    ("tag", "two words"),
    ("tag", "a/b"),
    ("tag", ".."),
    ("tag", "é"),
    ("tag", 7),
    ("image_size", 0),
    ("head", "svm"),
    ("zero_init_last", 1),
    ("small_images", 1),
    ("small_images", "yes"),
    ("mean", 0.5),
    ("mean", (0.5, 0.5)),
    ("mean", (0.5, 0.5, 1.5)),
    ("mean", (0.5, 0.5, "0.5")),
    ("mean", (0.5, 0.5, math.nan)),
    ("mean", [[0.1, 0.2, 0.3]]),
    ("std", (0.5, 0.5, 0.0)),
    ("std", (0.5, 0.5, math.inf)),
    ("std", "0.5"),
    ("projection_dim", 0),
    ("temperature", 0),
    ("temperature", -0.07),
    ("temperature", math.inf),
    ("base_temperature", 0.0),
    ("epochs", 0),
    ("epochs", 1.5),
    ("learning_rate", 0),
    ("learning_rate", math.nan),
    ("learning_rate", "0.1"),
    ("momentum", 1),
    ("momentum", -0.1),
    ("momentum", math.inf),
    ("weight_decay", -1e-4),
    ("schedule", "linear"),
    ("decay_rate", 0),
    ("decay_epochs", 700),
    ("decay_epochs", (700, 800.5)),
    ("warmup_epochs", -1),
    ("warmup_from", -0.1),
    ("save_every", 0),
    ("probe_from", -1),
    ("plateau_share", 0),
    ("plateau_share", 1),
    ("head_epochs", 0),
    ("head_batch_size", 0),
    ("head_learning_rates", 0.25),
    ("head_learning_rates", ()),
    ("head_learning_rates", (0.25, -1.0)),
    ("head_learning_rates", (0.25, 0.25)),
    ("method", "SupCon"),
    ("method", "ce"),
    ("head_decay_epochs", "60 75 90"),
    ("head_decay_rate", -0.2),
    ("head_views", -1),
    ("workers", -1),
    ("workers", 1.5),
    ("worker_timeout", 0),
    ("rolling_minutes", -1),
    ("force", 1),
    ("table_checkpoint", 0),
    ("table_checkpoint", 1.5),
    ("neighbours", 0),
    ("neighbours", 2.5),
    ("devices", 0),
    ("devices", "all"),
    ("test_curve", 1),
    ("on_bad_image", "ignore"),
    ("fit", "stretch"),
    ("interpolation", "nearest"),
    ("crop_bottom", -1),
    ("crop_bottom", 31.5),
    ("device", "gpu"),
    ("precision", "float16"),
    ("compile", 1),
    ("cache", "ram"),
    ("duplicate_distance", 65),
    ("group_by", "DYB-("),
    ("text_width", 0),
    ("other_splits", ("data/b", "elsewhere/b")),
    ("other_splits", ("digits",)),
    ("other_splits", "data/b"),
]


def test_defaults_are_the_thesiss_recipe():
    config = RunConfig()
    assert {name: getattr(config, name) for name in RECIPE} == RECIPE


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{n}={v!r}" for n, v in BAD])
def test_bad_value_is_refused_naming_field_and_value(name, value):
    with pytest.raises(InputError) as caught:
        RunConfig(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name} must be ")
    assert repr(value) in message
    assert "\n" not in message


def test_every_field_is_tried_with_a_bad_value():
    assert {f.name for f in fields(RunConfig)} == {name for name, _ in BAD}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 2),
        ("seed", 0),
        ("seed", 2**32 - 1),
        ("tag", "a.b_c-2"),
        ("mean", (0, 1, 0.5)),
        ("warmup_epochs", 0),
        ("workers", 0),
        ("momentum", 0),
        ("weight_decay", 0),
        ("decay_epochs", ()),
        ("image_size", 1),
        ("small_images", False),
        ("device", "mps"),
    ],
)
def test_values_at_the_edge_of_the_range_are_taken(name, value):
    assert getattr(RunConfig(**{name: value}), name) == value


def test_lists_become_tuples_and_whole_floats_ints():
    config = RunConfig(
        mean=[0, 0.5, 1], decay_epochs=[700.0, 800], batch_size=64.0, probe_from=700.0, momentum=0
    )
    assert config.mean == (0.0, 0.5, 1.0)
    assert all(type(m) is float for m in config.mean)
    assert config.decay_epochs == (700, 800)
    assert type(config.decay_epochs) is tuple and type(config.decay_epochs[0]) is int
    assert type(config.batch_size) is int and type(config.probe_from) is int
    assert type(config.momentum) is float
    assert RunConfig(mean=[0.5, 0.5, 0.5]) == RunConfig(mean=(0.5, 0.5, 0.5))
    hash(RunConfig(mean=[0.5, 0.5, 0.5]))


def test_config_cannot_be_changed_but_copied_with_the_same_checks():
    config = RunConfig()
    with pytest.raises(FrozenInstanceError):
        config.epochs = 3
    assert config.updated(epochs=3).epochs == 3 and config.epochs == 1000
    with pytest.raises(InputError, match="epochs must be"):
        config.updated(epochs=0)


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown setting 'batchsize'; nearest: batch_size"):
        RunConfig.from_dict({"batchsize": 32})


def test_nearest_says_nothing_where_nothing_is_near():
    assert nearest("zzz", ["batch_size"]) == ""
    assert nearest("anex", ["annex", "b"]) == "; nearest: annex"


def test_config_survives_json():
    config = RunConfig(
        mean=(0.1, 0.2, 0.3),
        std=(0.3, 0.2, 0.1),
        head_decay_epochs=(1,),
        small_images=True,
        tag="x",
    )
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert set(config.to_dict()) == {f.name for f in fields(RunConfig)}


def test_every_field_has_a_stage_and_a_help():
    for f in fields(RunConfig):
        assert f.metadata["stage"] in (IDENTITY, PRETRAIN, PROBE, RETRIEVE, MACHINE, COMPARISON)
        assert f.metadata["help"]
    stages = (IDENTITY, PRETRAIN, PROBE, RETRIEVE, MACHINE, COMPARISON)
    by_stage = [name for stage in stages for name in RunConfig.field_names(stage)]
    assert sorted(by_stage) == sorted(RunConfig.field_names())


def test_differences_are_of_the_given_stages_alone():
    one, other = RunConfig(epochs=3, head_epochs=5, workers=0), RunConfig(epochs=4, head_epochs=6)
    assert one.differences(other, (PRETRAIN,)) == {"epochs": (3, 4)}
    assert one.differences(other, (PRETRAIN, PROBE)) == {"epochs": (3, 4), "head_epochs": (5, 6)}
    assert one.differences(one, (IDENTITY, PRETRAIN, PROBE, RETRIEVE, MACHINE)) == {}


def test_run_name_follows_the_contract_and_is_safe_as_a_folder():
    assert RunConfig(batch_size=64).run_name == "resnet50-bs64-seed42"
    assert RunConfig(tag="lr2", seed=7).run_name == "resnet50-bs32-seed7-lr2"
    assert "/" not in RunConfig(backbone="hf_hub:timm/resnet50").run_name


@pytest.mark.parametrize("data", ["data/digits", "data/digits/", "/x/digits", "digits"])
def test_data_name_is_the_folders_own(data):
    assert RunConfig(data=data).data_name == "digits"


def test_data_name_of_a_dotted_path_is_the_folders_own(tmp_path, monkeypatch):
    (tmp_path / "plankton" / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "plankton")
    assert RunConfig(data=".").data_name == "plankton"
    monkeypatch.chdir(tmp_path / "plankton" / "train")
    assert RunConfig(data="..").data_name == "plankton"


def test_notebook_settings_are_the_literals_of_the_notebook():
    namespace = {
        "__name__": "__main__",
        "_": 3,
        "_i1": "backbone = 'lenet5'",
        "Out": {},
        "PAPERMILL_INPUT_PATH": "in.ipynb",
        "json": json,
        "RunConfig": RunConfig,
        "print_it": print,
        "backbone": "lenet5",
        "batch_size": 16,
        "decay_epochs": [1, 2],
        "mean": None,
    }
    assert notebook_settings(namespace) == {
        "backbone": "lenet5",
        "batch_size": 16,
        "decay_epochs": (1, 2),
        "mean": None,
    }


def test_notebook_settings_are_the_same_when_cells_run_again_in_the_same_kernel():
    cells = ["", "import json", "data = 'data/x'\nbatch_size = 16", "run = open_run(globals())"]
    namespace = {"In": cells, "data": "data/x", "batch_size": 16}
    first = notebook_settings(namespace)
    cells += ["classes = ['a']; seed = 7", "%time 3", "run = open_run(globals())"]
    namespace |= {"classes": ["a", "b"], "selection": {"checkpoint": 3}, "seed": 7}
    before = dict(namespace)
    assert notebook_settings(namespace) == first | {"seed": 7}
    assert namespace == before


def test_notebook_settings_refuse_what_the_parameters_cell_misspells():
    cells = ["", "bacth_size = 16", "%matplotlib inline", "config = read_parameters(globals())"]
    with pytest.raises(InputError, match=r"unknown setting 'bacth_size'; nearest: batch_size"):
        notebook_settings({"In": cells, "bacth_size": 16})


def test_a_corrected_parameters_cell_counts_as_it_is_now():
    cells = ["", "import json", "data = 'data/x'\nseeds = 42", "run = open_run(globals())"]
    namespace = {"In": cells, "data": "data/x", "seeds": 42}
    with pytest.raises(InputError, match="unknown setting 'seeds'"):
        notebook_settings(namespace)
    cells += ["import json", "data = 'data/x'\nseed = 43", "run = open_run(globals())"]
    namespace |= {"seed": 43}
    assert notebook_settings(namespace) == {"data": "data/x", "seed": 43}
    cells += ["n = 3", "run = open_run(globals())"]  # only the cell that reads, once more
    assert notebook_settings(namespace | {"n": 3}) == {"data": "data/x", "seed": 43}
    cells += ["data = 'data/x'\nseed = 43\nepoch = 1", "run = open_run(globals())"]
    with pytest.raises(InputError, match="unknown setting 'epoch'"):
        notebook_settings(namespace | {"epoch": 1})


def test_a_parameter_that_papermill_adds_is_refused_if_it_is_unknown():
    cells = ["", "data = 'data/x'", "# Parameters\nseeds = 1", "run = open_run(globals())"]
    with pytest.raises(InputError, match="unknown setting 'seeds'"):
        notebook_settings({"In": cells, "data": "data/x", "seeds": 1})


def test_settings_table_shows_what_names_a_run_and_what_is_no_default():
    table = settings_table(RunConfig(backbone="lenet5", epochs=3))
    assert table["value"].to_dict() == {
        **{"data": "data/digits", "backbone": "lenet5", "batch_size": 32, "seed": 42},
        "epochs": 3,
    }
    assert table.loc["epochs", "meaning"] == "number of pretraining epochs"


def test_notebook_settings_refuse_a_misspelt_parameter_and_a_bad_value():
    with pytest.raises(InputError, match=r"unknown setting 'bacth_size'; nearest: batch_size"):
        notebook_settings({"bacth_size": 16})
    with pytest.raises(InputError, match="batch_size must be"):
        notebook_settings({"batch_size": 0})


def test_input_error_is_one_line_in_a_notebook():
    error = InputError("epochs must be at least 1, not 0")
    assert error._render_traceback_() == ["InputError: epochs must be at least 1, not 0"]
    assert isinstance(error, ValueError)


def test_ipython_shows_input_error_without_a_traceback(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_cell("from thesis_lib.config import RunConfig\nRunConfig(epochs=0)")
    shown = capsys.readouterr()
    text = (shown.out + shown.err).strip()
    assert text == "InputError: epochs must be at least 1, not 0"
