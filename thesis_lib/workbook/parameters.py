"""Read settings from a notebook's parameters cell or a YAML file, and write them as options."""

from __future__ import annotations

import ast
import contextlib
import shlex
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from thesis_lib.coercion import from_text
from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError, nearest
from thesis_lib.runs.directory import RunDirectory

if TYPE_CHECKING:
    import pandas as pd

VIEW = ("image_size", "interpolation")  # settings that the training of weights decides, too


def read_parameters(namespace: Mapping[str, Any]) -> RunConfig:
    """Read a notebook's parameters, and make the demo data set if they name it and it is missing.

    Args:
        namespace: the notebook's ``globals()``.

    Raises:
        InputError: if a name is not a setting, or a value is out of range.
    """
    from thesis_lib.data.demo import prepare_demo_data  # late: loads torch

    config = config_of(notebook_settings(namespace))
    prepare_demo_data(config.data)
    return config


def config_of(settings: Mapping[str, Any]) -> RunConfig:
    """Make the config of a run that is about to be trained.

    If it starts from weights, those settings in :data:`VIEW` that are not given are as in the run
    that exists already, or as in the training of the weights.

    Args:
        settings: fields of :class:`RunConfig` and their values.

    Raises:
        InputError: if a setting is unknown or a value is out of range.
    """
    config = RunConfig.from_dict(settings)
    missing = {name for name in VIEW if name not in settings}
    if not config.weights or not missing:
        return config
    run = RunDirectory(config)
    if run.config_file.is_file():
        view = RunDirectory.open(run.path).config.to_dict()
    else:
        from thesis_lib.training import view_of_weights  # late: loads torch

        view = view_of_weights(config)
    return config.updated(**{name: view[name] for name in missing & view.keys()})


def open_run(namespace: Mapping[str, Any]) -> RunDirectory:
    """Open the run given by a notebook's parameters, see :meth:`RunDirectory.find`.

    Args:
        namespace: the notebook's ``globals()``.

    Raises:
        InputError: if there is no such run, or it was trained with other settings.
    """
    return RunDirectory.find(**notebook_settings(namespace))


def notebook_settings(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings made in a notebook's parameters cell and by papermill.

    papermill can pass any field of :class:`RunConfig`, also one that is not in the parameters
    cell. Any other variable with a literal value is a mistake, unless a later cell has set it.

    Args:
        namespace: the notebook's ``globals()``.

    Returns:
        Field names of :class:`RunConfig` and their checked values.

    Raises:
        InputError: if a variable is not a field (papermill itself only warns about a misspelt
            parameter and ignores it).
    """
    literals = (bool, int, float, str, list, tuple, dict, types.NoneType)
    hidden = ("In", "Out", "PAPERMILL_INPUT_PATH", "PAPERMILL_OUTPUT_PATH")
    given = {
        name: value
        for name, value in namespace.items()
        if type(value) in literals and name not in hidden and not name.startswith("_")
    }
    cells = namespace.get("In")  # the source of each executed cell; None in plain Python
    allowed = {*RunConfig.field_names(), *(given if cells is None else _parameters_set(cells))}
    settings = {name: value for name, value in given.items() if name in allowed}
    config = RunConfig.from_dict(settings | typed(settings))
    return {name: getattr(config, name) for name in settings}


def _parameters_set(cells: list[str]) -> set[str]:
    """Return the names that the parameters cell and papermill set when they were last run.

    In a new kernel, every cell before the one that reads the parameters counts as a parameters
    cell. If cells are run again, other cells have run in between, and their variables are not
    parameters. Then a parameters cell is one that sets at least two settings.

    Args:
        cells: the source of each executed cell, in the order of execution.
    """
    fields, names, before = set(RunConfig.field_names()), set[str](), list[set[str]]()
    is_first = True
    for source in cells:
        if any(call in source for call in ("read_parameters(", "open_run(")):
            if any(cell & fields for cell in before):  # set again: earlier names are out of date
                names = set()
            names |= {n for cell in before if is_first or len(cell & fields) > 1 for n in cell}
            is_first, before = False, []
        else:
            before.append(_assigned(source))
    return names


def _assigned(source: str) -> set[str]:
    """Return the names that a cell assigns."""
    with contextlib.suppress(SyntaxError):  # a cell with IPython magics
        assigned = (node for node in ast.parse(source).body if isinstance(node, ast.Assign))
        return {ast.unparse(target) for node in assigned for target in node.targets}
    return set()


def settings_table(config: RunConfig) -> pd.DataFrame:
    """Return a table of the settings that identify a run or differ from their defaults."""
    import pandas as pd  # late, as it takes half a second

    defaults = RunConfig()
    rows = [
        {
            "setting": field.name,
            "value": getattr(config, field.name),
            "meaning": field.metadata["help"],
        }
        for field in fields(RunConfig)
        if field.name in ("data", "backbone", "batch_size", "seed")
        or getattr(config, field.name) != getattr(defaults, field.name)
    ]
    return pd.DataFrame(rows).set_index("setting")


def read_settings(path: Path) -> dict[str, Any]:
    """Read settings from a YAML file: fields of RunConfig; those of ``GRID_FIELDS`` may be lists.

    Values are parsed as the type of their field. YAML itself would read 0064 as 52, 1e-3 as a
    string, and a tag called yes as true.

    Raises:
        InputError: if the file is missing or is not a mapping, or if a name is not a field or
            occurs twice.
    """
    try:
        root = yaml.compose(path.read_bytes(), yaml.SafeLoader)  # decoded by its byte order mark
    except OSError as error:
        raise InputError(f"cannot read the settings file {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not valid YAML: {reason}") from None
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{path} has no settings; write one per line, such as 'epochs: 300'")
    names, settings = RunConfig.field_names(), {}
    for key, node in root.value:
        name = key.value
        if name not in names:
            raise InputError(f"{path}: unknown setting {name!r}{nearest(str(name), names)}")
        if name in settings:
            raise InputError(f"{path}: the setting {name!r} occurs twice; remove one of the lines")
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not all(isinstance(item, yaml.ScalarNode) for item in items):
            raise InputError(f"{path}: {name} must be a value or a list of values")
        texts = [item.value for item in items]
        settings[name] = texts if isinstance(node, yaml.SequenceNode) else texts[0]
    return typed(settings)


def typed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with strings, also those in lists, parsed as the types of their fields."""
    annotations = typing.get_type_hints(RunConfig)
    return {
        name: from_text(value, annotations[name])
        for name, value in settings.items()
        if name in annotations
    }


def as_options(config: RunConfig) -> list[str]:
    """Return the command-line options of a run: its identity and all non-default settings."""
    defaults, words = RunConfig(), []
    for name in RunConfig.field_names():
        value = getattr(config, name)
        if value != getattr(defaults, name) or name in ("data", "backbone", "batch_size"):
            option = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            else:
                values = value if isinstance(value, tuple) else (value,)
                words += [f"--{option}", *(shlex.quote(str(v)) for v in values)]
    return words
