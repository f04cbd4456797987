"""Valid convolutions on whole images: mirrored borders, and the overlap-tile strategy (Ronneberger 2015, arXiv:1505.04597).

```text
   margin   image    margin          A network without padding answers only for the inside of what it sees. Around the
  d c b | a b c d e | d c b          image its mirror image is put, so that every voxel of the image is inside.
        ^ answered  ^
```
"""

from __future__ import annotations

import itertools
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
        period = max(1, 2 * size - 2)
        wave = torch.arange(-before, size + after, device=image.device).remainder(period)
        image = image.index_select(axis, torch.minimum(wave, period - wave) if size > 1 else wave)
    return image


def crop_center(image: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of an image; of an odd difference the larger part is cut off at the far side."""
    for axis, wanted in enumerate(size, start=2):
        if image.shape[axis] != wanted:
            image = image.narrow(axis, (image.shape[axis] - wanted) // 2, wanted)
    return image


def segment_overlap_tile(
    compute: Callable[[Tensor], Tensor], image: Tensor, tile_size: Sequence[int], margin: int
) -> Tensor:
    """Answer for a whole image tile by tile, seamlessly: every tile is seen with its true surroundings.

    Args:
        compute: A network without padding: ``tile + 2 margin`` voxels per axis in, ``tile`` out.
        image: ``(B, C, *spatial)``.
        tile_size: Voxels that one pass answers for; tiles at the far border reach into the mirror image.
        margin: Voxels that the network loses at each side.

    Returns:
        ``(B, out_channels, *spatial)``, the same as in one pass over the whole mirrored image.
    """
    spatial = image.shape[2:]
    counts = [-(-n // tile) for n, tile in zip(spatial, tile_size, strict=True)]
    padded = mirror_pad(
        image,
        [(margin, margin + count * tile - n) for n, tile, count in zip(spatial, tile_size, counts, strict=True)],
    )
    answer: Tensor | None = None
    for cell in itertools.product(*map(range, counts)):
        begins = [index * tile for index, tile in zip(cell, tile_size, strict=True)]
        window = padded
        for axis, (begin, tile) in enumerate(zip(begins, tile_size, strict=True), start=2):
            window = window.narrow(axis, begin, tile + 2 * margin)
        logits = compute(window)
        if answer is None:
            whole = [count * tile for count, tile in zip(counts, tile_size, strict=True)]
            answer = logits.new_empty((*logits.shape[:2], *whole))
        box = tuple(slice(begin, begin + tile) for begin, tile in zip(begins, tile_size, strict=True))
        answer[(slice(None), slice(None), *box)] = logits
    assert answer is not None
    return answer[(slice(None), slice(None), *(slice(0, n) for n in spatial))]


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


def answer_whole_image(compute: Callable[[Tensor], Tensor], image: Tensor, num_poolings: int) -> Tensor:
    """Logits of the image's own grid from such a U-Net: borders are mirrored, so that any size will do.

    Args:
        compute: The U-Net.
        image: ``(B, C, *spatial)``.
        num_poolings: Of the U-Net.
    """
    spatial = image.shape[2:]
    margin, answered = find_valid_margin(num_poolings), find_valid_output(spatial, num_poolings)
    margins = [(margin, margin + whole - n) for n, whole in zip(spatial, answered, strict=True)]
    logits = compute(mirror_pad(image, margins))
    return logits[(slice(None), slice(None), *(slice(0, n) for n in spatial))]
