"""Series that are whole by their distances and yet lack slices: said, not refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_series import build_series, read


def test_row_02_every_second_slice_is_missed_by_its_number(tmp_path: Path) -> None:
    series = build_series(shape=(7, 9, 9))
    for index in (7, 5, 3, 1):
        series.drop(index)
    scan = read(series.write(tmp_path / "in"))
    assert scan.volume.spatial_shape[2] == 5
    assert any("InstanceNumber" in note and "4 missing" in note for note in scan.notes), scan.notes


@pytest.mark.parametrize(
    ("stated", "is_said"), [(2.5, False), (2.52, False), (1.25, True), (-2.5, False), (None, False)]
)
def test_row_02_a_stated_distance_is_held_against_the_positions(
    tmp_path: Path, stated: float | None, is_said: bool
) -> None:
    series = build_series(shape=(7, 9, 6))
    for dataset in series.datasets:
        if stated is None:
            dataset.pop("SpacingBetweenSlices", None)
        else:
            dataset.SpacingBetweenSlices = stated
    scan = read(series.write(tmp_path / "in"))
    assert any("SpacingBetweenSlices says 1.25 mm" in note for note in scan.notes) is is_said
    assert scan.volume.spacing[2] == pytest.approx(2.5)
