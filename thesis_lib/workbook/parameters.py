"""Settings from a notebook's parameters cell, and from a file."""

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
from thesis_lib.config import GRID_FIELDS, RunConfig
from thesis_lib.errors import InputError, nearest
from thesis_lib.runs.directory import RunDirectory

if TYPE_CHECKING:
    import pandas as pd


def read_parameters(namespace: Mapping[str, Any]) -> RunConfig:
    """Read a notebook's parameters; the demo's data set is made where it is asked for and missing.

    Args:
        namespace: the notebook's ``globals()``.

    Raises:
        InputError: for a name that is no setting, or a value out of range.
    """
    from thesis_lib.data.demo import prepare_demo_data  # loads torch, for which status cannot wait

    config = RunConfig(**notebook_settings(namespace))
    prepare_demo_data(config.data)
    return config


def open_run(namespace: Mapping[str, Any]) -> RunDirectory:
    """Open the run that a notebook's parameters name; settings of later stages may differ.

    Args:
        namespace: the notebook's ``globals()``.

    Raises:
        InputError: where there is no such run, or it was trained with other settings.
    """
    return RunDirectory.find(**notebook_settings(namespace))


def notebook_settings(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a notebook's parameters cell, and papermill after it, have set.

    Any field of :class:`RunConfig` can be passed by papermill, also one that the parameters cell
    does not show. A literal of any other name is a mistake, unless a later cell has set it.

    Args:
        namespace: the notebook's ``globals()``.

    Returns:
        Field names of :class:`RunConfig` and their checked values.

    Raises:
        InputError: for a variable that is no field (papermill itself only warns of a
            misspelt parameter and runs on without it).
    """
    literals = (bool, int, float, str, list, tuple, dict, types.NoneType)
    hidden = ("In", "Out", "PAPERMILL_INPUT_PATH", "PAPERMILL_OUTPUT_PATH")
    given = {
        name: value
        for name, value in namespace.items()
        if type(value) in literals and name not in hidden and not name.startswith("_")
    }
    allowed = {*RunConfig.field_names(), *_names_before_reading(namespace.get("In"), given)}
    settings = {name: value for name, value in given.items() if name in allowed}
    config = RunConfig.from_dict(settings | typed(settings))
    return {name: getattr(config, name) for name in settings}


def _names_before_reading(cells: list[str] | None, given: Mapping[str, Any]) -> set[str]:
    """The names that cells had set before one read the parameters for the first time.

    Where a notebook's cells are run again in the same kernel, variables of later cells are no
    parameters.

    Args:
        cells: the sources that IPython has executed (``In``); None in plain Python, where all
            names count.
        given: the names that there are now.
    """
    if cells is None:
        return set(given)
    names: set[str] = set()
    for source in cells:
        if any(call in source for call in ("read_parameters(", "open_run(")):
            break
        with contextlib.suppress(SyntaxError):  # a cell of magics
            assigned = (node for node in ast.parse(source).body if isinstance(node, ast.Assign))
            names |= {ast.unparse(target) for node in assigned for target in node.targets}
    return names


def settings_table(config: RunConfig) -> pd.DataFrame:
    """What names a run and what differs from the defaults: setting, value, meaning."""
    import pandas as pd  # takes half a second, for which status cannot wait

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
    """The settings of a YAML file: fields of RunConfig, several values of backbone and batch size.

    Every value is read as its field's type: YAML itself would make 52 of 0064, a text of 1e-3,
    and true of a tag called yes.

    Raises:
        InputError: for a file that is missing or no mapping of settings, a name that is no
            field, and one that stands twice.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except OSError as error:
        raise InputError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is no YAML file: {reason}") from None
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{path} holds no settings; a line is such as 'epochs: 300'")
    names, settings = RunConfig.field_names(), {}
    for key, node in root.value:
        name = key.value
        if name not in names:
            raise InputError(f"{path}: unknown setting {name!r}{nearest(str(name), names)}")
        if name in settings:
            raise InputError(f"{path}: the setting {name!r} stands twice")
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not all(isinstance(item, yaml.ScalarNode) for item in items):
            raise InputError(f"{path}: {name} must be a value or a list of values")
        texts = [item.value for item in items]
        settings[name] = texts if isinstance(node, yaml.SequenceNode) else texts[0]
    return typed(settings)


def typed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with texts, also in lists, read as their fields' types."""
    annotations = typing.get_type_hints(RunConfig)
    return {
        name: from_text(value, annotations[name])
        for name, value in settings.items()
        if name in annotations
    }


def as_options(config: RunConfig) -> list[str]:
    """The options that ask for a run: what names it, and every setting that is no default."""
    defaults, words = RunConfig(), []
    for name in RunConfig.field_names():
        value = getattr(config, name)
        if value != getattr(defaults, name) or name in ("data", *GRID_FIELDS):
            option = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            else:
                values = value if isinstance(value, tuple) else (value,)
                words += [f"--{option}", *(shlex.quote(str(v)) for v in values)]
    return words
