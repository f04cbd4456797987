"""Whether nnU-Net is here, where it keeps its files, and how many processes it takes: all told by environment variables."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from pathlib import Path


def has_nnunet() -> bool:
    """Whether the package nnunetv2 can be imported."""
    return importlib.util.find_spec("nnunetv2") is not None


def require_nnunet() -> None:
    """End the program with one line when nnunetv2 is not here."""
    if not has_nnunet():
        sys.exit(
            f"nnunetv2 is not installed for {sys.executable}: run `make peers`, then "
            f".venv-peers/bin/python benchmarks/{Path(sys.argv[0]).name}."
        )


@contextmanager
def nnunet_environment(root: Path, *, compiles: bool = True) -> Iterator[None]:
    """Let nnU-Net work in a folder.

    Args:
        root: Gets the folders ``raw``, ``preprocessed`` and ``results``.
        compiles: Whether nnU-Net may compile its network where it does so by itself, in training on GPUs.
    """
    values = {f"nnUNet_{name}": str(root / name) for name in ("raw", "preprocessed", "results")}
    if not compiles:  # when it is asked to, it compiles in other places too
        values["nnUNet_compile"] = "False"
    with _variables(values):
        yield


@contextmanager
def nnunet_workers(workers: int | None) -> Iterator[None]:
    """How many processes augment; 0 augments in the training process, None leaves it to nnU-Net. Its planner refuses 0."""
    with _variables({} if workers is None else {"nnUNet_n_proc_DA": str(workers)}):
        yield


def silence() -> AbstractContextManager[object]:
    """Nothing is printed within: nnU-Net tells what it does with ``print``."""
    return redirect_stdout(io.StringIO())


@contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
