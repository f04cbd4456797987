"""Networks without padding see every tile with its true surroundings: the same as one pass over the whole image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import ORACLE_TASK, build_plan_for

from medunet.inference import compute_logits, load
from medunet.inference.backends import quantize_networks
from medunet.inference.sliding_window import crop_tile
from medunet.inference.surroundings import Surrounded, find_plan_margins, find_seen_size, surround
from medunet.inference.tile_networks import TileNetworks
from medunet.io import read_label_map, write_nifti_image
from medunet.networks import PatchNetwork, build_network, find_surroundings, replace_network
from medunet.planning import Plan
from medunet.preprocessing import preprocess_image
from medunet.volume import Volume

CPU = torch.device("cpu")
OPTIONS = {"width": 4, "num_poolings": 2, "padding": "valid"}


def build_valid_plan(patch_size: tuple[int, int, int], architecture: str = "unet-2015", **options: Any) -> Plan:
    plan = build_plan_for(ORACLE_TASK, (1.0, 1.0, 1.0), patch_size)
    if 1 in patch_size:
        network = plan.network.model_copy(
            update={"spatial_dims": 2, "strides": ((1, 1, 1), (2, 2, 1)), "kernels": ((3, 3, 1), (3, 3, 1))}
        )
        plan = plan.model_copy(update={"network": network, "configuration": "2d"})
    return replace_network(plan, architecture, OPTIONS | options)


def build_seeded(plan: Plan) -> PatchNetwork:
    torch.manual_seed(0)
    return build_network(plan.network).eval()


def make_image(shape: tuple[int, int, int]) -> Volume:
    array = np.random.default_rng(1).normal(0, 1, (1, *shape)).astype(np.float32)
    return Volume(array, np.eye(4))


def compute_whole(network: PatchNetwork, image: Volume) -> torch.Tensor:
    """One pass; only the borders of the image are mirrored."""
    with torch.no_grad():
        return network(torch.from_numpy(image.array)[None])[0]


@pytest.mark.parametrize("shape", [(48, 40, 3), (16, 16, 1), (40, 16, 2), (9, 7, 1), (1, 12, 1)])
def test_a_picture_is_segmented_as_in_one_pass(shape: tuple[int, int, int]) -> None:
    """Tiles begin every eight pixels, as the grid of the pooling does, so that nothing depends on where they lie."""
    plan = build_valid_plan((16, 16, 1))
    network, image = build_seeded(plan), make_image(shape)
    found = compute_logits(network, image, plan, CPU, "32-true")
    for number in range(shape[2]):
        one = Volume(image.array[..., number : number + 1], image.affine)
        torch.testing.assert_close(found[..., number : number + 1], compute_whole(network, one), atol=1e-5, rtol=1e-5)


def test_a_volume_is_segmented_as_in_one_pass() -> None:
    plan = build_valid_plan((8, 8, 8), "unet3d-2016", width=2, num_poolings=1, norm="none")
    network, image = build_seeded(plan), make_image((16, 12, 8))
    found = compute_logits(network, image, plan, CPU, "32-true")
    torch.testing.assert_close(found, compute_whole(network, image), atol=1e-5, rtol=1e-5)


def test_slices_beside_a_slice_are_seen_with_their_surroundings() -> None:
    plan = build_valid_plan((16, 16, 1))
    network = plan.network.model_copy(update={"in_channels": 3})
    plan = plan.model_copy(update={"network": network, "num_neighbour_slices": 1})
    network_of_three, image = build_seeded(plan), make_image((32, 24, 3))
    found = compute_logits(network_of_three, image, plan, CPU, "32-true")
    for number, slices in enumerate([(0, 0, 1), (0, 1, 2), (1, 2, 2)]):
        seen = Volume(np.moveaxis(image.array[0][..., list(slices)], -1, 0)[..., None], image.affine)
        expected = compute_whole(network_of_three, seen)
        torch.testing.assert_close(found[..., number : number + 1], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1)])
def test_mirrored_passes_lie_where_the_others_do(axes: tuple[int, ...]) -> None:
    """A network of three poolings answers for 20 voxels where a tile has 16, and so has to see more behind than before."""
    plan = build_valid_plan((16, 16, 1), num_poolings=3)
    network, image = build_seeded(plan), make_image((64, 48, 1))
    assert find_surroundings(plan.network, plan.patch_size)[0] == (44, 48)
    assert find_plan_margins(plan) == (48, 48, 0)
    voxels = torch.from_numpy(image.array)
    tile = surround(crop_tile, plan)(voxels, (slice(16, 32), slice(24, 40), slice(0, 1)))[None]
    seen = Surrounded(network, plan).eval()
    with torch.no_grad():
        found = TileNetworks([seen], [axes])(tile)[0]
        flipped = [2 + axis for axis in axes]
        # In the mirrored image, too, the tile begins where the grid of the pooling does: at 32 of 64, and at 8 of 48.
        whole = network(voxels[None].flip(flipped)).flip(flipped)[0]
    torch.testing.assert_close(found, whole[:, 16:32, 24:40], atol=1e-5, rtol=1e-5)


def test_mirroring_every_tile_for_itself_would_differ() -> None:
    plan = build_valid_plan((16, 16, 1))
    network, image = build_seeded(plan), make_image((48, 48, 1))
    with torch.no_grad():
        alone = network(torch.from_numpy(image.array[:, 16:32, 16:32])[None])[0]
    expected = compute_whole(network, image)[:, 16:32, 16:32]
    assert (alone - expected).abs().mean() > 0.05 * expected.std()


def test_margins_are_those_of_the_paper() -> None:
    paper = build_valid_plan((388, 388, 1), num_poolings=4)
    assert find_plan_margins(paper) == (92, 92, 0)
    assert find_seen_size(paper) == (572, 572, 1)
    padded = build_valid_plan((32, 32, 1), padding="same")
    assert find_plan_margins(padded) is None
    assert find_seen_size(padded) == (32, 32, 1)


def test_every_backend_sees_the_surroundings(write_model: Any, tmp_path: Path) -> None:
    plan = build_valid_plan((16, 16, 1))
    network = build_seeded(plan)
    folder = write_model(tmp_path / "model", plan=plan, weights=network.state_dict())
    scan = make_image((48, 40, 2))
    write_nifti_image(scan, tmp_path / "scan.nii.gz")
    prepared = preprocess_image(scan, plan)
    slices = [compute_whole(network, replace(prepared, array=prepared.array[..., k : k + 1])) for k in range(2)]
    expected = torch.cat(slices, dim=-1).argmax(0).numpy()
    for backend in ("torch", "openvino", "onnxruntime"):
        segmenter = load(folder, device="cpu", precision="fp32", backend=backend, flips="none", skip_air=False)
        mask = segmenter.segment(tmp_path / "scan.nii.gz").save(tmp_path / f"{backend}.nii.gz")
        found = read_label_map(mask).array[0]
        values = np.array([0, 1, 2, 3, 4, 7])[expected]
        assert (found != values).mean() < 1e-3


def test_eight_bits_are_refused(tmp_path: Path) -> None:
    plan = build_valid_plan((16, 16, 1))
    with pytest.raises(ValueError, match="without padding"):
        quantize_networks([build_seeded(plan)], plan, torch.zeros(1, 1, 16, 16, 1), tmp_path)
