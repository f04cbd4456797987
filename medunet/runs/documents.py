"""Differences of two JSON documents, each by its path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

Number = int | float


@dataclass(frozen=True, kw_only=True)
class DocumentDifference:
    """One place at which two documents differ.

    Attributes:
        path: Keys and numbers of list items, joined by dots.
        first: The value there, as in JSON; None where it is null or missing.
        second: Likewise, of the second document.
    """

    path: str
    first: Any
    second: Any


def compare_documents(
    first: Mapping[str, Any], second: Mapping[str, Any], *, where: str = "", silent: frozenset[str] = frozenset()
) -> Iterator[DocumentDifference]:
    """Every place at which two JSON documents differ, in the order of the first.

    Args:
        first: A document.
        second: Another.
        where: Put before every path.
        silent: Keys at the top that are passed over.

    Example:
        >>> [one.path for one in compare_documents({"a": {"b": [1, 2], "c": 3}}, {"a": {"b": [1, 4], "c": 3}})]
        ['a.b']
    """
    for key in [*first, *(key for key in second if key not in first)]:
        if key in silent or (before := first.get(key)) == (after := second.get(key)):
            continue
        path = f"{where}.{key}" if where else key
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from compare_documents(before, after, where=path)
        elif _is_list_of_documents(before) and _is_list_of_documents(after) and len(before) == len(after):
            for index, (one, other) in enumerate(zip(before, after, strict=True)):
                yield from compare_documents(one, other, where=f"{path}.{index}")
        else:
            yield DocumentDifference(path=path, first=before, second=after)


def flatten_document(document: Mapping[str, Any], *, where: str = "") -> dict[str, Number | bool | str]:
    """A document as one row: path -> number or text, for programs that know nothing else.

    Args:
        document: JSON.
        where: Put before every path.

    Example:
        >>> flatten_document({"patch_size": [40, 56, 40], "network": {"features": [16, 32], "norm": None}})
        {'patch_size': '40x56x40', 'network.features': '16x32', 'network.norm': 'none'}
    """
    row: dict[str, Number | bool | str] = {}
    for key, value in document.items():
        path = f"{where}.{key}" if where else key
        if isinstance(value, Mapping):
            row |= flatten_document(value, where=path)
        elif _is_list_of_documents(value):
            for index, item in enumerate(value):
                row |= flatten_document(item, where=f"{path}.{index}")
        else:
            row[path] = value if isinstance(value, int | float) else format_value(value)
    return row


def format_value(value: Any, separator: str = "x") -> str:
    """A value for people: numbers of a list as in ``40x56x40``, lists of lists with spaces, words with commas.

    Example:
        >>> format_value([40, 56, 40]), format_value([[1, 1, 1], [2, 2, 2]]), format_value(["ct"]), format_value(None)
        ('40x56x40', '1x1x1 2x2x2', 'ct', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {format_value(item, separator)}" for key, item in value.items()) or "none"
    if not isinstance(value, list | tuple):
        return str(value)
    if any(isinstance(item, list | tuple) for item in value):
        return " ".join(format_value(item, separator) for item in value)
    if any(isinstance(item, str) for item in value):
        return ", ".join(map(str, value)) or "none"
    return separator.join(map(str, value)) or "none"


def _is_list_of_documents(value: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)
