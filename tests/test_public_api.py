"""The names that users may rely on, and that asking for them costs nothing until they are used."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import pytest

import medunet
from medunet.errors import MedunetError

PUBLIC = [
    "MedunetError",
    "Segmentation",
    "Segmenter",
    "Volume",
    "compare_runs",
    "evaluate",
    "export",
    "list_runs",
    "list_tasks",
    "load",
    "load_task",
    "postprocess",
    "read_volume",
    "train",
]


def list_rooms() -> list[ModuleType]:
    names = [module.name for module in pkgutil.iter_modules(medunet.__path__) if module.ispkg and module.name != "cli"]
    return [importlib.import_module(f"medunet.{name}") for name in names]


def test_the_public_names_are_these() -> None:
    assert sorted(medunet.__all__) == sorted(PUBLIC)
    assert set(medunet._HOMES) == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    thing = getattr(medunet, name)
    assert thing.__doc__
    assert thing.__module__.startswith("medunet.")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        _ = medunet.predict


def test_every_room_lists_its_public_names() -> None:
    for room in list_rooms():
        assert room.__doc__, room.__name__
        assert room.__all__ == sorted(room.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name)), (
            room.__name__
        )
        for name in room.__all__:
            assert getattr(room, name) is not None, f"{room.__name__}.{name}"


def test_every_error_can_be_caught_as_one() -> None:
    from medunet import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) == 11
    assert all(issubclass(kind, MedunetError) for kind in kinds)
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.OutputError, OSError)
