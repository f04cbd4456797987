"""Benchmarks that train begin: they import what they need, and say what can be chosen. Nothing else runs them between releases."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    "name", ["bench_networks", "bench_isbi2012", "bench_instances", "bench_postprocessing", "bench_pretraining"]
)
def test_a_benchmark_explains_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(name).main()
    assert end.value.code == 0
    assert "--data" in capsys.readouterr().out
