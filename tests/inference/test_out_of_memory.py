"""Where memory does not suffice, a scan goes on with less at a time, from where it was, and the next one begins with that."""

from __future__ import annotations

import dataclasses
import logging
import weakref
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from made_up_runs import REGIONS, TASK, join
from oracles import ORACLE_HU, NearestIntensity, build_plan_for
from torch import Tensor

from medunet.inference import (
    InferenceSettings,
    LabelPainter,
    Predictor,
    Segmenter,
    Slab,
    TileNetworks,
    plan_tiles,
    restore_label_map,
    restore_predictions,
    stream_sliding_window,
)
from medunet.inference import restoring as restoring_module
from medunet.inference import sliding_window as sliding_window_module
from medunet.inference.at_once import SMALLEST_BLOCK, AtOnce, Experience, Portions
from medunet.inference.boundary import BLOCK
from medunet.inference.members import MembersWatch
from medunet.inference.prediction import Prediction
from medunet.models import Model
from medunet.postprocessing import AgreementCounts
from medunet.tasks import Task
from medunet.volume import Volume, build_grid

GPU = torch.device("cuda")


def fail() -> None:
    msg = "CUDA out of memory"
    raise torch.OutOfMemoryError(msg)


def list_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


# ---- what failed is gone, what is done stays -------------------------------------------------------------------------------


class Holding:
    """A network that holds something while it computes and fails where it sees more than two tiles."""

    def __init__(self) -> None:
        self.held: list[weakref.ref[Tensor]] = []
        self.sizes: list[int] = []
        self.still_alive: list[int] = []

    def __call__(self, tiles: Tensor) -> Tensor:
        self.sizes.append(len(tiles))
        self.still_alive.append(sum(reference() is not None for reference in self.held))
        activations = torch.zeros(len(tiles), 100)
        self.held.append(weakref.ref(activations))
        if len(tiles) > 2:
            fail()
        return tiles.clone()


def test_what_a_failed_pass_held_is_gone_before_the_next_one() -> None:
    network = Holding()
    TileNetworks([network], batch_size=16)(torch.zeros(16, 1, 2, 2, 2))
    assert network.sizes[:4] == [16, 8, 4, 2]
    assert set(network.still_alive) == {0}


def test_what_a_failed_batch_held_is_gone_before_the_next_one() -> None:
    network = Holding()
    image, tiling = torch.zeros(1, 8, 8, 40), plan_tiles((8, 8, 40), (8, 8, 8))
    for _ in stream_sliding_window(image, network, tiling, torch.zeros(1), batch_size=8):
        pass
    assert network.sizes[:3] == [8, 4, 2]
    assert set(network.still_alive) == {0}


def test_passes_that_are_done_are_not_done_again() -> None:
    sizes: list[int] = []

    def network(tiles: Tensor) -> Tensor:
        sizes.append(len(tiles))
        if len(sizes) == 2:
            fail()
        return tiles.clone()

    tiles = torch.arange(8.0).reshape(8, 1, 1, 1, 1)
    assert torch.equal(TileNetworks([network], batch_size=4)(tiles), tiles)
    assert sizes == [4, 4, 2, 2]


def test_tiles_that_cannot_be_put_together_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    build = sliding_window_module._Batches.build

    def build_few(self: Any, boxes: Any) -> Tensor:
        if len(boxes) > 2:
            fail()
        return build(self, boxes)

    monkeypatch.setattr(sliding_window_module._Batches, "build", build_few)
    sizes: list[int] = []

    def note(tiles: Tensor) -> Tensor:
        sizes.append(len(tiles))
        return tiles.clone()

    image, tiling = torch.randn(1, 8, 8, 40), plan_tiles((8, 8, 40), (8, 8, 8))
    slabs = [
        (slab.first, slab.logits.clone())
        for slab in stream_sliding_window(image, note, tiling, torch.zeros(1), axis=2, batch_size=8)
    ]
    assert sizes == [2] * 4 + [1]
    whole = torch.full((1, 40, 8, 8), torch.nan)
    for first, logits in slabs:
        whole[:, first : first + logits.shape[1]] = logits
    torch.testing.assert_close(whole.permute(0, 2, 3, 1), image)


@pytest.mark.parametrize("num_flips", [1, 2])
def test_members_count_once_where_a_later_network_has_no_room(num_flips: int) -> None:
    """The first network has answered for two tiles when the second one fails: both see them again, one by one."""
    tiles = torch.randn(2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    flips: list[tuple[int, ...]] = [(), (0,)][:num_flips]
    sizes: list[int] = []

    def second(tiles: Tensor, *, has_room: bool) -> Tensor:
        sizes.append(len(tiles))
        if not has_room and len(sizes) <= 2:  # nor is there room for one alone
            fail()
        return tiles.flip(3) + tiles

    def count(*, has_room: bool) -> AgreementCounts | None:
        watch = MembersWatch(TASK, 2, num_flips, 0.5, torch.device("cpu"))
        networks = [lambda tiles: tiles.clone(), partial(second, has_room=has_room)]
        together = TileNetworks(networks, flips, mirrored_outputs=range(3), batch_size=2, on_members=watch.count)
        image = torch.cat([*tiles], 3)
        tiling = plan_tiles((3, 4, 10), (3, 4, 5), step_fraction=1.0)
        for _ in stream_sliding_window(image, together, tiling, torch.zeros(3), axis=2, batch_size=2):
            pass
        return watch.read()

    assert (counts := count(has_room=True)) is not None
    assert all(sum(common) > 0 for common in counts.common.values())
    sizes.clear()
    assert count(has_room=False) == counts


# ---- from scan to scan -----------------------------------------------------------------------------------------------------


class FewAtOnce(NearestIntensity):
    sizes: ClassVar[list[int]] = []

    def forward(self, patches: Tensor) -> Tensor:
        FewAtOnce.sizes.append(len(patches))
        if len(patches) > 2:
            fail()
        return super().forward(patches)


def test_row_69_the_next_scan_begins_with_what_was_enough(
    build_oracle: Callable[..., Model], make_densities: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_oracle(spacing=(0.7, 1.2, 3.0), network=FewAtOnce(list(ORACLE_HU)))
    segmenter = Segmenter(model, "cpu", InferenceSettings(backend="torch", precision="fp32", batch_size=8))
    scan, expected = make_densities()
    FewAtOnce.sizes = []
    for _ in range(3):
        assert np.array_equal(segmenter.segment(scan).labels.array, expected.array)
    assert FewAtOnce.sizes[:3] == [8, 4, 2]
    assert set(FewAtOnce.sizes[3:]) <= {1, 2}
    assert list_messages(caplog) == [
        "Memory does not suffice for 8 passes; 4 at a time.",
        "Memory does not suffice for 4 passes; 2 at a time.",
    ]


def test_what_was_enough_is_a_limit_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    experience = Experience()
    assert experience.limit(Portions(batch_size=8)) == Portions(batch_size=8)
    AtOnce(Portions(batch_size=8), experience).take_fewer(8)
    small = AtOnce(experience.limit(Portions(batch_size=3)), experience)
    assert small.batch_size == 3
    assert small.take_smaller_blocks()
    assert experience.limit(Portions(batch_size=8)) == Portions(batch_size=4, block_logits=BLOCK // 4)
    again = AtOnce(Portions(batch_size=8), experience)
    again.take_fewer(8)
    assert list_messages(caplog) == ["Memory does not suffice for 8 tiles; 4 at a time."]
    assert again.take_smaller_blocks()
    assert again.take_smaller_blocks()
    assert (again.block_logits, again.take_smaller_blocks()) == (SMALLEST_BLOCK, False)


# ---- sums and labels -------------------------------------------------------------------------------------------------------


def test_another_error_of_a_gpu_is_none_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*size: Any, device: torch.device) -> Tensor:
        msg = "CUDA error: device-side assert triggered"
        raise RuntimeError(msg)

    monkeypatch.setattr(torch, "zeros", allocate)
    with pytest.raises(RuntimeError, match="device-side assert"):
        sliding_window_module._allocate((1, 2), GPU)


def make_logits(task: Task, make_volume: Any) -> tuple[Tensor, Volume, Volume]:
    scan = make_volume(shape=(15, 9, 21), spacing=(1.1, 2.1, 0.9), orientation="PSL")
    grid = build_grid((9, 11, 13), scan.affine @ np.diag([1.7, 0.8, 1.6, 1.0]))
    return torch.randn(task.num_outputs, 9, 11, 13, generator=torch.Generator().manual_seed(5)), grid, scan


@pytest.mark.parametrize(
    ("task", "name"),
    [(TASK, "find_winners_between"), (REGIONS, "find_positive_between")],
    ids=["labels", "regions"],
)
def test_planes_become_labels_in_blocks_that_fit(
    make_volume: Any, monkeypatch: pytest.MonkeyPatch, task: Task, name: str
) -> None:
    logits, grid, scan = make_logits(task, make_volume)
    expected = restore_label_map(logits, grid, scan, task).array
    assert len(np.unique(expected)) > 2
    compute, blocks = getattr(restoring_module, name), []

    def find(*arguments: Any, block_logits: int) -> Tensor:
        blocks.append(block_logits)
        if block_logits > SMALLEST_BLOCK:
            fail()
        found: Tensor = compute(*arguments, block_logits=block_logits)
        return found

    monkeypatch.setattr(restoring_module, name, find)
    experience = Experience()
    for _ in range(2):
        at_once = AtOnce(experience.limit(Portions(batch_size=1)), experience)
        painter = LabelPainter(grid, 0, scan, task, at_once=at_once)
        painter.add(Slab(logits=logits, first=0))
        assert np.array_equal(painter.finish().array, expected)
    assert blocks[:3] == [BLOCK, BLOCK // 4, BLOCK // 16]
    assert set(blocks[3:]) == {SMALLEST_BLOCK}


class NoRoom:
    """Logits on a GPU that has no room for anything else."""

    device = GPU

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits
        self.num_tries = 0

    def sum(self, dim: Any) -> Tensor:
        self.num_tries += 1
        fail()
        raise AssertionError

    def cpu(self) -> Tensor:
        return self._logits


def test_planes_that_cannot_become_labels_on_a_gpu_do_on_the_cpu(
    make_volume: Any, caplog: pytest.LogCaptureFixture
) -> None:
    logits, grid, scan = make_logits(TASK, make_volume)
    expected = restore_label_map(logits, grid, scan, TASK).array
    painter = LabelPainter(grid, 0, scan, TASK)
    first, second = NoRoom(logits[:, :6]), NoRoom(logits[:, 5:])
    painter.add(Slab(logits=first, first=0))  # type: ignore[arg-type]
    painter.add(Slab(logits=second, first=5))  # type: ignore[arg-type]
    assert np.array_equal(painter.finish().array, expected)
    assert (first.num_tries, second.num_tries) == (3, 0)  # smaller blocks first; then nothing is tried there any more
    assert list_messages(caplog) == ["Finished planes cannot become labels on cuda; they do on the CPU."]


def test_planes_that_fit_nowhere_are_an_error(make_volume: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, grid, scan = make_logits(TASK, make_volume)

    def find(*arguments: Any, block_logits: int) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(restoring_module, "find_winners_between", find)
    with pytest.raises(MemoryError):
        restore_label_map(logits, grid, scan, TASK)


def test_probabilities_of_several_plans_meet_on_the_cpu_where_a_gpu_has_no_room(
    make_volume: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logits, grid, scan = make_logits(TASK, make_volume)
    plan = build_plan_for(TASK, (1.0, 1.0, 1.0), (8, 8, 8))
    predictions = [Prediction(logits=one, grid=grid, plan=plan) for one in (logits, logits.flip(1))]
    expected = restore_predictions(predictions, scan, TASK).array
    stubs = [
        dataclasses.replace(
            one, logits=SimpleNamespace(device=GPU, sum=lambda dim: torch.zeros(1), cpu=lambda own=one.logits: own)
        )
        for one in predictions
    ]
    compute = restoring_module._restore_mean

    def restore(given: Any, *arguments: Any) -> Volume:
        if given[0].logits.device.type == "cuda":
            fail()
        return compute(given, *arguments)

    monkeypatch.setattr(restoring_module, "_restore_mean", restore)
    experience = Experience()
    for _ in range(2):  # of two scans, which is said once
        assert np.array_equal(restore_predictions(stubs, scan, TASK, experience=experience).array, expected)
    assert list_messages(caplog) == [
        "The probabilities of a whole scan do not fit on cuda; their mean is made on the CPU."
    ]


def test_scans_of_several_plans_share_what_was_said(
    build_oracle: Callable[..., Model], make_densities: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter(join(build_oracle(), build_oracle(spacing=(2.0, 1.0, 1.0))), "cpu")
    restore = restore_predictions

    def restore_and_say(*arguments: Any, experience: Experience) -> Volume:
        experience.warn_once("There is no room.")
        return restore(*arguments, experience=experience)

    monkeypatch.setattr("medunet.inference.predictor.restore_predictions", restore_and_say)
    scan, _ = make_densities(shape=(9, 8, 7))
    assert [segmenter.segment(scan).warnings for _ in range(2)] == [("There is no room.",), ()]


# ---- what is there ---------------------------------------------------------------------------------------------------------


def test_without_a_limit_portions_fit_into_what_is_free(
    build_oracle: Callable[..., Model], make_densities: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    model = build_oracle(spacing=(1.4, 2.0, 3.0), patch_size=(24, 24, 16))
    scan, _ = make_densities(shape=(60, 50, 40))
    settings = InferenceSettings(batch_size=8, backend="torch")
    predictor = Predictor(model, torch.device("cpu"), "32-true", settings)
    plenty = predictor.estimate_memory(scan)
    assert list_messages(caplog) == []
    monkeypatch.setattr("medunet.inference.predictor.measure_room", lambda device: plenty.host_bytes - 1)
    less = predictor.estimate_memory(scan)
    assert less.host_bytes < plenty.host_bytes
    assert list_messages(caplog) == []
    monkeypatch.setattr("medunet.inference.predictor.measure_room", lambda device: 10**6)
    caplog.set_level(logging.WARNING)
    smallest = predictor.estimate_memory(scan)  # an estimate refuses nothing
    assert smallest.host_bytes < less.host_bytes
    (message,) = list_messages(caplog)
    assert "0.00 GB are free; it is tried in the smallest portions" in message
    limited = Predictor(model, torch.device("cpu"), "32-true", dataclasses.replace(settings, memory_gb=50))
    assert limited.estimate_memory(scan) == plenty  # whoever sets a limit knows better than what is free now
