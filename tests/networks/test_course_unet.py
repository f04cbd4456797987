"""The course U-Net, layer by layer against its published table."""

from __future__ import annotations

import torch
from torch import nn

from medunet.networks.course_unet import CourseUNet, CourseUNetConfig

TABLE = [
    # size, channels, parameters, in the order of the table
    *[(256, 8, 224), (256, 8, 584)],
    *[(128, 16, 1_168), (128, 16, 2_320)],
    *[(64, 32, 4_640), (64, 32, 9_248)],
    *[(32, 64, 18_496), (32, 64, 36_928)],
    *[(16, 128, 73_856), (16, 128, 147_584)],
    *[(8, 256, 295_168), (8, 256, 590_080)],
    *[(4, 512, 1_180_160), (4, 512, 2_359_808)],
    *[(8, 64, 131_136), (8, 256, 737_536), (8, 256, 590_080)],
    *[(16, 32, 32_800), (16, 128, 184_448), (16, 128, 147_584)],
    *[(32, 16, 8_208), (32, 64, 46_144), (32, 64, 36_928)],
    *[(64, 8, 2_056), (64, 32, 11_552), (64, 32, 9_248)],
    *[(128, 4, 516), (128, 16, 2_896), (128, 16, 2_320)],
    *[(256, 2, 130), (256, 16, 1_456), (256, 16, 2_320)],
    (256, 1, 17),
]


def test_every_layer_of_the_table() -> None:
    rows: list[tuple[int, int, int]] = []

    def note(module: nn.Module, _: object, output: torch.Tensor) -> None:
        rows.append((output.shape[2], output.shape[1], sum(parameter.numel() for parameter in module.parameters())))

    with torch.device("meta"):
        network = CourseUNet(CourseUNetConfig())
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.register_forward_hook(note)
        assert network(torch.empty(1, 3, 256, 256)).shape == (1, 1, 256, 256)
    assert rows == TABLE
    assert sum(row[2] for row in rows) == 6_667_639


def test_one_level_is_enough() -> None:
    network = CourseUNet(CourseUNetConfig(num_levels=1, width=4, in_channels=1))
    assert network(torch.zeros(1, 1, 6, 10)).shape == (1, 1, 6, 10)
