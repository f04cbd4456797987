"""Valid convolutions on whole images: mirrored borders (Ronneberger 2015, arXiv:1505.04597).

```text
   margin   image    margin          A network without padding answers only for the inside of what it sees. Around the
  d c b | a b c d e | d c b          image its mirror image is put, so that every voxel of the image is inside.
        ^ answered  ^
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def mirror_pad(image: Tensor, margins: Sequence[tuple[int, int]]) -> Tensor:
    """Continue an image beyond its borders by its mirror image, as often as the margin needs; the border voxel is not repeated.

    Args:
        image: ``(B, C, *spatial)``.
        margins: Voxels before and after, one pair per spatial axis.

    Example:
        >>> mirror_pad(torch.arange(3.0).reshape(1, 1, 3, 1), [(3, 2), (0, 0)]).flatten().tolist()
        [1.0, 2.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0]
    """
    for axis, (before, after) in enumerate(margins, start=2):
        if before == after == 0:
            continue
        size = image.shape[axis]
        image = image.index_select(axis, list_mirrored(-before, size + after, size, image.device))
    return image


def list_mirrored(start: int, stop: int, size: int, device: torch.device | None = None) -> Tensor:
    """The voxels of a line of that size that its continuation by mirror images shows from one place to another.

    Example:
        >>> list_mirrored(-2, 6, 4).tolist()
        [2, 1, 0, 1, 2, 3, 2, 1]
    """
    period = max(1, 2 * size - 2)
    wave = torch.arange(start, stop, device=device).remainder(period)
    return torch.minimum(wave, period - wave) if size > 1 else wave


def crop_center(image: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of an image; of an odd difference the larger part is cut off at the far side."""
    for axis, wanted in enumerate(size, start=2):
        if image.shape[axis] != wanted:
            image = image.narrow(axis, (image.shape[axis] - wanted) // 2, wanted)
    return image


def find_valid_margin(num_poolings: int) -> int:
    """Voxels that a U-Net of two valid 3x3 convolutions per level loses at each side.

    Example:
        >>> find_valid_margin(4), 572 - 2 * find_valid_margin(4)
        (92, 388)
    """
    return 6 * (1 << num_poolings) - 4


def find_valid_output(size: Sequence[int], num_poolings: int) -> tuple[int, ...]:
    """The smallest answer of such a U-Net that is no smaller along any axis.

    Its deepest level answers for ``c`` voxels, and every level up doubles them and loses 4.

    Example:
        >>> find_valid_output((388, 300), 4)
        (388, 308)
    """
    factor = 1 << num_poolings
    lost = 4 * (factor - 1)
    return tuple(-(-(n + lost) // factor) * factor - lost for n in size)


def find_valid_surroundings(size: Sequence[int], num_poolings: int) -> tuple[tuple[int, int], ...]:
    """Voxels before and after a patch that such a U-Net has to see, too, one pair per axis.

    Example:
        >>> find_valid_surroundings((388, 300), 4)
        ((92, 92), (92, 100))
    """
    margin, answered = find_valid_margin(num_poolings), find_valid_output(size, num_poolings)
    return tuple((margin, margin + whole - n) for n, whole in zip(size, answered, strict=True))


def answer_whole_image(compute: Callable[[Tensor], Tensor], image: Tensor, num_poolings: int) -> Tensor:
    """Logits of the image's own grid from such a U-Net: borders are mirrored, so that any size will do.

    Args:
        compute: The U-Net.
        image: ``(B, C, *spatial)``.
        num_poolings: Of the U-Net.
    """
    spatial = image.shape[2:]
    logits = compute(mirror_pad(image, find_valid_surroundings(spatial, num_poolings)))
    return logits[(slice(None), slice(None), *(slice(0, n) for n in spatial))]
