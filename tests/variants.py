"""Variants of a dataclass that differ in one field each, to prove that a key names every field."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Options = TypeVar("Options")


def variants(options: Options, prefix: str = "") -> Iterator[tuple[str, Options]]:
    """Yield the dotted name of every field, and a copy of the dataclass in which only this field differs.

    The fields of nested dataclasses vary one by one. Copies skip `__post_init__`, which may refuse a combination.
    """
    hints = get_type_hints(type(options))
    for each in fields(options):
        value = getattr(options, each.name)
        if is_dataclass(value):
            for name, inner in variants(value, f"{prefix}{each.name}."):
                yield name, _replace(options, each.name, inner)
        else:
            changed = _different(value, hints[each.name])
            yield f"{prefix}{each.name}", _replace(options, each.name, changed)


def ignored_fields(key: Callable[[Options], Any], options: Options) -> list[str]:
    """Names of the fields whose change leaves a key the same."""
    expected = key(options)
    return [name for name, changed in variants(options) if key(changed) == expected]


def _replace(options: Any, name: str, value: Any) -> Any:
    changed = copy.copy(options)
    object.__setattr__(changed, name, value)
    return changed


def _different(value: Any, hint: Any) -> Any:
    """A value of the same type that differs; for None, a value of the type that the field may have instead."""
    if get_origin(hint) is Literal:
        return next(choice for choice in get_args(hint) if choice != value)
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case Path():
            return value / "x"
        case Mapping():
            return {**value, "x": 1}
        case list() | tuple():
            return type(value)([*value, *(value[-1:] or ["x"])])
        case None:
            kind = next(kind for kind in get_args(hint) if kind is not NoneType)
            return kind() if is_dataclass(kind) else _different(_empty(kind), kind)
    raise TypeError(f"no variant of {value!r}")


def _empty(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    return (get_origin(kind) or kind)()
