"""Settings from a notebook's parameters cell, and from a file."""

import types
import typing
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import yaml

from thesis_lib.coercion import from_text
from thesis_lib.config import InputError, RunConfig, nearest


def notebook_settings(namespace: MutableMapping[str, Any]) -> dict[str, Any]:
    """The settings that a notebook's parameters cell, and papermill after it, have set.

    Args:
        namespace: the notebook's ``globals()``. Every variable in it that holds a literal is
            taken for a setting, so that any field of :class:`RunConfig` can be passed by
            papermill, also one that the parameters cell does not show.

    Returns:
        Field names of :class:`RunConfig` and their checked values.

    Raises:
        InputError: for a variable that is no field (papermill itself only warns of a
            misspelt parameter and runs on without it).
    """
    literals = (bool, int, float, str, list, tuple, dict, types.NoneType)
    settings = {
        name: value
        for name, value in namespace.items()
        if type(value) in literals and name not in ("In", "Out")
        if not name.startswith("_") and not name.isupper()  # nor a constant that was imported
    }
    # Where the notebook is run again in the same kernel, its results are there as well: what was
    # there the first time, and every known name, is a setting.
    first = namespace.setdefault("_first_settings", frozenset(settings))
    known = first.union(RunConfig.field_names())
    settings = {name: value for name, value in settings.items() if name in known}
    config = RunConfig.from_dict(settings | typed(settings))
    return {name: getattr(config, name) for name in settings}


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
