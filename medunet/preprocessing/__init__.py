"""From a scan to what the network sees, and from the network's grid back to the scan's.

Names are loaded on first use: most of the room needs torch only, while `monai_bridge` needs MONAI, which takes seconds to
import.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medunet.preprocessing.blocks import Box, whole_box
    from medunet.preprocessing.cubic import resample_cubic
    from medunet.preprocessing.monai_bridge import from_metatensor, to_metatensor
    from medunet.preprocessing.neighbour_slices import (
        NeighbourSlices,
        crop_with_neighbours,
        find_neighbour_slices,
        fold_slices,
        name_slices,
    )
    from medunet.preprocessing.pipeline import compute_fill, preprocess_image, preprocess_labels
    from medunet.preprocessing.prepare import prepare_cases
    from medunet.preprocessing.quantize import Quantization
    from medunet.preprocessing.resample import (
        compute_axis_mapping,
        find_coarse_axis,
        find_winner,
        resample_label_map,
        resample_linear,
    )
    from medunet.preprocessing.store import StoredCase

_HOMES = {
    "Box": "blocks",
    "NeighbourSlices": "neighbour_slices",
    "Quantization": "quantize",
    "StoredCase": "store",
    "compute_axis_mapping": "resample",
    "compute_fill": "pipeline",
    "crop_with_neighbours": "neighbour_slices",
    "find_coarse_axis": "resample",
    "find_neighbour_slices": "neighbour_slices",
    "fold_slices": "neighbour_slices",
    "from_metatensor": "monai_bridge",
    "name_slices": "neighbour_slices",
    "prepare_cases": "prepare",
    "preprocess_image": "pipeline",
    "preprocess_labels": "pipeline",
    "resample_cubic": "cubic",
    "resample_label_map": "resample",
    "resample_linear": "resample",
    "find_winner": "resample",
    "to_metatensor": "monai_bridge",
    "whole_box": "blocks",
}

__all__ = [
    "Box",
    "NeighbourSlices",
    "Quantization",
    "StoredCase",
    "compute_axis_mapping",
    "compute_fill",
    "crop_with_neighbours",
    "find_coarse_axis",
    "find_neighbour_slices",
    "find_winner",
    "fold_slices",
    "from_metatensor",
    "name_slices",
    "prepare_cases",
    "preprocess_image",
    "preprocess_labels",
    "resample_cubic",
    "resample_label_map",
    "resample_linear",
    "to_metatensor",
    "whole_box",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
