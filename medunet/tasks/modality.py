"""What kind of image a task is about, and what follows from it.

A scan (CT, MR) shows a patient: there is air around the body, left and right differ, and files know millimetres. A picture
(photo, microscopy) shows whatever fills it: nothing is cropped away, and where a file names no pixel size, 1 mm stands for
1 pixel.
"""

from __future__ import annotations

from typing import Literal

Modality = Literal["CT", "MR", "photo", "microscopy"]

_PICTURES = ("photo", "microscopy")


def is_picture(modality: str) -> bool:
    """Whether images have no body and no air around it.

    Example:
        >>> is_picture("microscopy"), is_picture("MR")
        (True, False)
    """
    return modality in _PICTURES
