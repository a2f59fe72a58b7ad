"""Values held against the type that a setting is annotated with."""

import types
import typing
from typing import Any

REFUSED = object()


def coerce(value: Any, annotation: Any) -> Any:
    """``value`` as the annotated type (whole floats as ints, lists as tuples), or REFUSED."""
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
    # A string is no number here: the command line has parsed its own already.
    return REFUSED if isinstance(value, str) or number != value else number


def describe(annotation: Any) -> str:
    """What a value of the annotated type is called, for an error."""
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if isinstance(annotation, types.UnionType):
        return " or ".join(describe(option) for option in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        return f"a list of {'numbers' if float in typing.get_args(annotation) else 'whole numbers'}"
    return names.get(annotation, "null")
