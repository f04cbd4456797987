"""The attributes that tell apart the volumes of one series: b-values, echoes, phases, kernels."""

from __future__ import annotations

from typing import Any

from medunet.io.dicom.frames import Frame
from medunet.io.dicom.header import get_items, get_text, quiet_pydicom

# What tells the volumes of one series apart, most telling first (DICOM PS3.3; the private ones hold the b-value of
# Siemens and GE). Times come late: they differ from slice to slice in a series that is one volume.
VOLUME_KEYS = (
    "TemporalPositionIdentifier", "TemporalPositionIndex", "DiffusionBValue", "SiemensBValue", "GEBValue",
    "DiffusionGradientOrientation", "EchoTime", "EffectiveEchoTime", "EchoNumbers", "InversionTime", "FlipAngle", "RepetitionTime", "KVP",
    "NominalCardiacTriggerDelayTime", "NominalPercentageOfCardiacPhase", "TriggerTime", "ComplexImageComponent", "ImageType", "FrameType",
    "SequenceName", "StackID", "AcquisitionNumber", "ConvolutionKernel", "AcquisitionDateTime", "AcquisitionTime",
    "FrameAcquisitionDateTime", "ContentTime",
)  # fmt: skip


_PRIVATE_KEYS = {"SiemensBValue": (0x0019, 0x100C), "GEBValue": (0x0043, 0x1039)}
_KEY_SEQUENCES = (
    "FrameContentSequence", "MRDiffusionSequence", "MREchoSequence", "MRImageFrameTypeSequence",
    "CTImageFrameTypeSequence", "PETFrameTypeSequence", "CardiacSynchronizationSequence", "MRModifierSequence",
    "MRTimingAndRelatedParametersSequence", "TemporalPositionSequence", "CTReconstructionSequence",
)  # fmt: skip
PHYSICAL_KEYS = (
    "TemporalPositionIdentifier", "TemporalPositionIndex", "DiffusionBValue", "SiemensBValue", "EchoTime",
    "EffectiveEchoTime", "InversionTime", "RepetitionTime", "FlipAngle", "GEBValue", "KVP", "ComplexImageComponent",
    "ConvolutionKernel", "FrameType", "ImageType",
)  # fmt: skip
"""Those that say what was measured: slices that differ in one of these are never of one volume."""


def read_volume_keys(frame: Frame) -> dict[str, str]:
    """The attributes that may tell apart the volumes of a series, and their values."""
    return read_keys(frame, VOLUME_KEYS)


def read_keys(frame: Frame, keys: tuple[str, ...]) -> dict[str, str]:
    """Some attributes of a slice, from its own group, the shared one, or the file; those that none has are missing."""
    holders = [holder for group in frame.groups for holder in (group, *_list_holders(group))]
    values = {}
    for key in keys:
        for holder in holders:
            text = _read_private(holder, key) if key in _PRIVATE_KEYS else get_text(holder, key)
            if text:
                values[key] = text
                break
    return values


def _list_holders(group: Any) -> list[Any]:
    """The items of a functional group in which such attributes stand."""
    holders = [item for name in _KEY_SEQUENCES if name in group for item in get_items(group, name, None)[:1]]
    deeper = [get_items(holder, "DiffusionGradientDirectionSequence", None)[:1] for holder in holders]
    return holders + [item for items in deeper for item in items]


def _read_private(holder: Any, keyword: str) -> str:
    tag = _PRIVATE_KEYS[keyword]
    if tag not in holder:
        return ""
    try:
        with quiet_pydicom():
            value = holder[tag].value
    except Exception:  # a private attribute only helps to tell volumes apart
        return ""
    if isinstance(value, bytes):
        value = value.decode("ascii", "ignore").strip("\0 ")
    elif hasattr(value, "__iter__") and not isinstance(value, str):
        value = next(iter(value), "")
    return str(value)
