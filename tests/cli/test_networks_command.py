"""``medunet networks``: figures of the networks, as a table and as JSON."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from medunet.cli.app import app
from medunet.errors import InputError
from medunet.networks import ARCHITECTURES


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["networks", *arguments])
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_table_has_a_line_per_network() -> None:
    lines = run("unet-2015", "unet", "course-unet", "--dims", "2", "--patch", "256", "--channels", "3").splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["unet-2015", "unet", "course-unet"]
    assert lines[1].split()[:6] == ["unet-2015", "2015", "2D", "64", "256x256", "31,031,810"]
    assert lines[3].endswith("after arXiv:1505.04597")


def test_json_has_everything() -> None:
    (one,) = json.loads(run("swin-unetr", "--json", "--patch", "64x64x96", "--classes", "4"))
    assert one["title"] == "Swin UNETR"
    assert one["paper"] == "arXiv:2201.01266"
    assert one["spatial_dims"] == 3
    assert one["patch_size"] == [64, 64, 96]
    assert one["receptive_field"] is None
    assert one["options"]["width"] == one["width"] == 48
    assert one["gflop"] > 100


def test_widths_are_scaled_to_a_cost() -> None:
    rows = json.loads(run("unet", "vnet", "segnet", "--json", "--patch", "64", "--gflop", "20"))
    for row in rows:
        assert 10 < row["gflop"] <= 20, row["name"]


@pytest.mark.parametrize(("dims", "widest"), [("2", 512), ("3", 320)])
def test_the_widest_there_is_costs_less_than_was_asked_for(dims: str, widest: int) -> None:
    """The planner's rule ends at so many channels, and with it the search."""
    (one,) = json.loads(run("unet", "--json", "--dims", dims, "--patch", "16", "--gflop", "100000"))
    assert one["width"] == widest
    assert one["gflop"] < 100000
    (least,) = json.loads(run("unet", "--json", "--dims", dims, "--patch", "16", "--gflop", "0.0000001"))
    assert least["width"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("dims", ["2", "3"])
def test_all_networks_are_listed(dims: str) -> None:
    rows = json.loads(run("--json", "--dims", dims))
    assert [row["name"] for row in rows] == list(ARCHITECTURES)
    assert all(row["parameters"] > 1000 and row["gflop"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dims", "4"], "--dims is 4; expected 2 or 3"),
        (["--patch", "12x12"], "--patch is '12x12'; expected one whole number above 0, or 3 joined by x"),
        (["--patch", "0"], "--patch is '0'"),
        (["--gflop", "0"], "--gflop is 0"),
        (["unett"], "There is no network 'unett'"),
    ],
)
def test_what_cannot_be_shown(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(*arguments)
