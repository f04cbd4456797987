"""From a scan to what the network sees, and from the network's grid back to the scan's.

Names are loaded on first use: `resample` needs torch only, while the pipeline needs MONAI, which takes seconds to import.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medunet.preprocessing.monai_bridge import from_metatensor, to_metatensor
    from medunet.preprocessing.pipeline import preprocess_image, preprocess_labels
    from medunet.preprocessing.resample import (
        compute_axis_mapping,
        resample_label_map,
        resample_linear,
        resample_winner,
    )
    from medunet.preprocessing.store import Box, StoredCase, prepare_cases

_HOMES = {
    "Box": "store",
    "StoredCase": "store",
    "compute_axis_mapping": "resample",
    "from_metatensor": "monai_bridge",
    "prepare_cases": "store",
    "preprocess_image": "pipeline",
    "preprocess_labels": "pipeline",
    "resample_label_map": "resample",
    "resample_linear": "resample",
    "resample_winner": "resample",
    "to_metatensor": "monai_bridge",
}

__all__ = [
    "Box",
    "StoredCase",
    "compute_axis_mapping",
    "from_metatensor",
    "prepare_cases",
    "preprocess_image",
    "preprocess_labels",
    "resample_label_map",
    "resample_linear",
    "resample_winner",
    "to_metatensor",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
