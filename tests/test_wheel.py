"""The wheel holds what the package reads at run time, and nothing else of the repository."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """As `pip wheel .` makes it, without the network that an environment of its own would need."""
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    return zipfile.ZipFile(path)


def test_every_file_of_the_package_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    package = [path for path in (ROOT / "medunet").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected = {path.relative_to(ROOT).as_posix() for path in package}
    expected |= {f"medunet/configs/{path.name}" for path in (ROOT / "configs").iterdir()}
    assert expected - names == set()
    assert {name for name in names - expected if ".dist-info/" not in name} == set()
    for kind in ("assets/niivue.umd.js", "assets/niivue-LICENSES.txt", "templates/base.html", "templates/viewer.js"):
        assert f"medunet/reporting/{kind}" in names
    assert {"medunet/py.typed", "medunet/configs/prostate-ct.yaml"} <= names


def test_files_are_whole_and_licences_travel_along(wheel: zipfile.ZipFile) -> None:
    niivue = "medunet/reporting/assets/niivue.umd.js"
    assert wheel.read(niivue) == (ROOT / niivue).read_bytes()
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    licences = {name for name in wheel.namelist() if name.startswith(f"{info}/licenses/")}
    assert {Path(name).name for name in licences} == {"LICENSE", "NOTICE", "niivue-LICENSES.txt"}
    assert "medunet = medunet.cli.app:main" in wheel.read(f"{info}/entry_points.txt").decode()
