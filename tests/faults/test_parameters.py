"""Parameters from shells, YAML and papermill get the right type or are refused at once."""

import pytest
import yaml

from thesis_lib.cli.command_line import main
from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.workbook.parameters import notebook_settings, read_settings

RIGHTLY = [
    ("learning_rate: 1e-3", "learning_rate", 0.001),
    ("learning_rate: 1", "learning_rate", 1.0),
    ("batch_size: 0064", "batch_size", 64),
    ("small_images: yes", "small_images", True),
    ("small_images: Off", "small_images", False),
    ("small_images: null", "small_images", None),
    ("tag: yes", "tag", "yes"),
    ("tag: 0064", "tag", "0064"),
    ("tag: 1e3", "tag", "1e3"),
    ("head_learning_rates: [0.25, 25e-1]", "head_learning_rates", (0.25, 2.5)),
    ("decay_epochs:\n  - 07\n  - 8", "decay_epochs", (7, 8)),
    ("workers: 2", "workers", 2),
]


@pytest.mark.parametrize(("text", "name", "value"), RIGHTLY, ids=[r[0] for r in RIGHTLY])
def test_settings_of_a_file_are_typed_by_their_field(tmp_path, text, name, value, faults):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    found = getattr(RunConfig.from_dict(read_settings(file)), name)
    assert found == value and type(found) is type(value)
    faults(f"{text!r} in a settings file", 1, 1)


def test_control_yaml_alone_types_them_wrongly():
    plain = [yaml.safe_load(text)[name] for text, name, _ in RIGHTLY]
    assert plain[0] == "1e-3" and plain[2] == 52 and plain[6] is True and plain[7] == 52


REFUSED = [
    ("epochs: 3\nepochs: 5", "'epochs' occurs twice"),
    ("epoch: 3", "unknown setting 'epoch'; nearest: epochs"),
    ("epochs: 3.5", "epochs must be a whole number, not '3.5'"),
    ("epochs: 0x10", "epochs must be a whole number, not '0x10'"),
    ("epochs: 1_000", "epochs must be a whole number"),
    ("epochs:", "epochs must be a whole number, not ''"),
    ("learning_rate: fast", "learning_rate must be a number, not 'fast'"),
    ("learning_rate: nan", "learning_rate must be a number, not 'nan'"),
    ("compile: 1", "compile must be true or false, not '1'"),
    ("compile: maybe", "compile must be true or false"),
    ("head_learning_rates: 0.25", "head_learning_rates must be a list of numbers"),
    ("epochs: {a: 1}", "epochs must be a value or a list"),
    ("- epochs", "has no settings"),
    ("", "has no settings"),
    ("epochs: [3", "is not valid YAML"),
    ("epochs: !!python/object/apply:os.system ['touch mark']", "epochs must be a whole number"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[r[0] for r in REFUSED])
def test_what_a_file_cannot_mean_is_refused_in_one_line(workbook, capsys, text, message, faults):
    (workbook / "settings.yaml").write_text(text)
    assert main(["run", "--data", "data/tiny", "--settings", "settings.yaml"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (workbook / "runs").exists() and not (workbook / "mark").exists()
    faults(f"{text!r} in a settings file", 1, 1)


def test_options_go_before_the_file_and_lists_make_a_grid(workbook, capsys):
    (workbook / "grid.yaml").write_text(
        "data: data/tiny\nbackbone: lenet5\nbatch_size: [8, 016]\nimage_size: 32\nepochs: 9\n"
    )
    assert main(["run", "--settings", "grid.yaml", "--epochs", "7", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "tiny/lenet5-bs8-seed42" in out and "tiny/lenet5-bs16-seed42" in out
    assert out.count("    epochs = 7\n") == 2


def test_missing_file_is_one_line(workbook, capsys):
    assert main(["run", "--settings", "nowhere.yaml"]) == 2
    assert "cannot read the settings file nowhere.yaml: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], "unrecognized arguments: --epoch 3; nearest: --epochs"),
        (["--epochs", "many"], "epochs must be a whole number, not 'many'"),
        (["--compile", "yes"], "unrecognized arguments: yes"),
        (["--learning-rate", "nan"], "learning_rate must be a number, not 'nan'"),
    ],
)
def test_mistakes_on_the_command_line_are_refused(workbook, capsys, arguments, message, faults):
    try:
        status = main(["run", "--data", "data/tiny", *arguments])
    except SystemExit as error:
        status = error.code
    error = capsys.readouterr().err
    assert status == 2 and message in error and error.count("\n") == 1
    assert not (workbook / "runs").exists()
    faults(f"{' '.join(arguments)} on the command line", 1, 1)


def test_texts_of_a_shell_are_typed(workbook, capsys):
    arguments = ["--batch-size", "0008", "--learning-rate", "1e-3", "--tag", "0064", "--dry-run"]
    arguments += ["--data", "data/tiny", "--backbone", "lenet5", "--image-size", "32"]
    assert main(["run", *arguments]) == 0
    out = capsys.readouterr().out
    for line in ("batch_size = 8", "learning_rate = 0.001", 'tag = "0064"'):
        assert f"    {line}\n" in out


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("learning_rate", "1e-3", 0.001),
        ("small_images", "yes", True),
        ("batch_size", "64", 64),
        ("workers", "2", 2),
        ("tag", "yes", "yes"),
    ],
)
def test_texts_that_papermill_hands_on_are_typed(name, given, value):
    """``-p small_images yes`` and ``-y 'learning_rate: 1e-3'`` arrive as strings."""
    assert notebook_settings({name: given})[name] == value


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("tag", 64, "tag must be text, not 64"),  # -p tag 0064
        ("epoch", 3, "unknown setting 'epoch'; nearest: epochs"),
        ("epochs", True, "epochs must be a whole number, not True"),
        ("epochs", "ten", "epochs must be a whole number, not 'ten'"),
    ],
)
def test_what_papermill_has_mistyped_is_refused(name, given, message):
    with pytest.raises(InputError, match=message):
        notebook_settings({name: given})
