"""Convert the values of settings to their annotated types, or refuse them."""

import re
import types
import typing
from typing import Any

REFUSED = object()
TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
INTEGER = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)


def coerce(value: Any, annotation: Any) -> Any:
    """Convert a value to the annotated type, for example a list to a tuple or 3.0 to 3.

    Returns:
        The converted value, or REFUSED if the value does not fit the type.
    """
    if isinstance(annotation, types.UnionType):
        options = [coerce(value, option) for option in typing.get_args(annotation)]
        return next((option for option in options if option is not REFUSED), REFUSED)
    if typing.get_origin(annotation) is tuple:
        if not isinstance(value, list | tuple):
            return REFUSED
        items = tuple(coerce(item, typing.get_args(annotation)[0]) for item in value)
        return REFUSED if REFUSED in items else items
    if annotation is types.NoneType:
        return None if value is None else REFUSED
    if annotation is str:
        return value if isinstance(value, str) else REFUSED
    if annotation is bool or isinstance(value, bool):
        return value if annotation is bool and isinstance(value, bool) else REFUSED
    try:
        number = annotation(value)
    except (TypeError, ValueError, OverflowError):
        return REFUSED
    # Strings are not read as numbers here; from_text does that.
    return REFUSED if isinstance(value, str) or number != value else number


def from_text(value: Any, annotation: Any) -> Any:
    """Parse strings as the annotated type, such as ``1e-3``, ``0064`` or ``yes``.

    Shells, papermill and YAML may pass numbers and booleans as strings. A string that cannot be
    parsed is returned unchanged, and :func:`coerce` then refuses it.
    """
    if isinstance(annotation, types.UnionType):
        if value in ("null", "~", "None"):
            return None
        return from_text(value, typing.get_args(annotation)[0])
    if isinstance(value, list | tuple):
        item_type = next(iter(typing.get_args(annotation)), annotation)
        return [from_text(item, item_type) for item in value]
    if not isinstance(value, str):
        return value
    if annotation is bool:
        return TRUTHS.get(value.lower(), value)
    if annotation is int and INTEGER.fullmatch(value):
        return int(value)
    if annotation is float and NUMBER.fullmatch(value):
        return float(value)
    return value


def describe(annotation: Any) -> str:
    """Return what a value of the annotated type is called in an error message."""
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    if isinstance(annotation, types.UnionType):
        return " or ".join(describe(option) for option in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        return f"a list of {'numbers' if float in typing.get_args(annotation) else 'whole numbers'}"
    return names.get(annotation, "null")
