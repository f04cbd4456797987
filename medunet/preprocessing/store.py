"""`StoredCase`: a preprocessed case of which any box can be read, from its file or from memory."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medunet.preprocessing.blocks import Box, to_blocks, whole_box
from medunet.preprocessing.case_file import CaseFile, serialize_case
from medunet.preprocessing.foreground import ForegroundIndex, index_foreground
from medunet.preprocessing.quantize import Quantization, choose_quantization
from medunet.volume import Affine, Array, Shape3

_PREVIOUS = "previous"


@dataclass(frozen=True, kw_only=True)
class StoredCase:
    """A preprocessed case, on disk or in memory.

    Attributes:
        case_id: Of the case.
        path: The file.
        shape: ``(I, J, K)`` on the network's grid.
        fill: Value per channel for voxels outside the image, ``(C,)``.
        foreground: Code -> ``(N, 3)`` voxel positions, a random part of all; read when asked for.
        image: ``(C, I, J, K)`` when kept in memory, float32, or int16 where there is a ``quantization``.
        labels: ``(I, J, K)`` uint8 codes when kept in memory.
        quantization: How stored integers become intensities; None where float32 is stored.
        checksum: SHA-256 over everything that is stored, in hexadecimal digits.
        annotated: Per output of the network, whether it was looked for in this case; None: all were.
        file: Where boxes are read from when the case is not in memory.
        affine: From voxels to RAS+ mm, ``(4, 4)``.
        previous: ``(I, J, K)`` uint8 codes that another network found, when kept in memory (`add_previous`).
        previous_file: Where they are read from otherwise; None where there are none.
    """

    case_id: str
    path: Path
    shape: Shape3
    fill: Tensor
    foreground: Mapping[int, Tensor]
    image: Tensor | None = None
    labels: Tensor | None = None
    quantization: Quantization | None = None
    checksum: str = ""
    annotated: tuple[bool, ...] | None = None
    file: CaseFile | None = None
    affine: Affine = field(default_factory=lambda: np.eye(4))
    previous: Tensor | None = None
    previous_file: CaseFile | None = None

    @property
    def is_in_memory(self) -> bool:
        """Whether no file is read any more."""
        return self.image is not None and self.labels is not None

    @property
    def num_bytes(self) -> int:
        """Of image and labels in memory; 0 on disk."""
        return sum(tensor.nbytes for tensor in (self.image, self.labels, self.previous) if tensor is not None)

    @property
    def has_previous(self) -> bool:
        """Whether there are labels that another network found."""
        return self.previous is not None or self.previous_file is not None

    def read_box(self, box: Box, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Image ``(C, ...)`` float32 and codes ``(...)`` uint8 of a box that lies within the case; nothing else is read.

        Args:
            box: Not empty.
            device: Where the voxels shall be; None leaves them where they are.

        Raises:
            OSError: If the file cannot be read.
            VolumeError: If it was cut off meanwhile.
        """
        if self.image is not None and self.labels is not None:
            image, labels = self.image[(slice(None), *box)], self.labels[box]
        else:
            assert self.file is not None  # without tensors there is a file
            image = torch.from_numpy(self.file.read_box("image", box))
            labels = torch.from_numpy(self.file.read_box("labels", box)[0])
        image, labels = _move(image, device), _move(labels, device)  # as stored: half the bytes
        return (image if self.quantization is None else self.quantization.decode(image)), labels

    def read_previous_box(self, box: Box, device: torch.device | None = None) -> Tensor:
        """Codes ``(...)`` uint8 that another network found in a box; see `read_box`."""
        if self.previous is not None:
            return _move(self.previous[box], device)
        assert self.previous_file is not None  # the caller asked `has_previous`
        return _move(torch.from_numpy(self.previous_file.read_box(_PREVIOUS, box)[0]), device)

    def add_previous(self, file: CaseFile) -> StoredCase:
        """The same case with labels that another network found, in memory if the case is; they count in its checksum.

        Args:
            file: From `medunet.preprocessing.case_file.open_case_file`, of the same shape.

        Raises:
            DamagedCaseError: If everything is read and is not what was written.
        """
        assert file.shape == self.shape
        checksum = hashlib.sha256(f"{self.checksum} {file.checksum}".encode()).hexdigest()
        if not self.is_in_memory:
            return dataclasses.replace(self, previous_file=file, checksum=checksum)
        file.verify()
        codes = torch.from_numpy(file.read_box(_PREVIOUS, whole_box(file.shape))[0])
        return dataclasses.replace(self, previous=codes, checksum=checksum)

    def to(self, device: torch.device) -> StoredCase:
        """The same case with what is in memory on a device."""
        if self.image is None or self.labels is None:
            return self
        previous = None if self.previous is None else self.previous.to(device)
        return dataclasses.replace(self, image=self.image.to(device), labels=self.labels.to(device), previous=previous)


def serialize_stored_case(
    image: Array, codes: Array, fill: Array, case_id: str, *, affine: Affine | None = None
) -> bytes:
    """The file of a preprocessed case.

    Args:
        image: ``(C, I, J, K)`` float32.
        codes: ``(I, J, K)`` uint8.
        fill: ``(C,)`` float32.
        case_id: Seeds the choice of foreground positions.
        affine: From voxels to RAS+ mm; None where nobody will ask for places.
    """
    quantization = choose_quantization(image)
    counts, positions = index_foreground(codes, case_id)
    tensors = {
        "image": to_blocks(image if quantization is None else quantization.encode(image)),
        "labels": to_blocks(codes[None]),
        "fill": fill,
        "foreground": positions,
        "foreground_counts": counts,
        "affine": np.array(np.eye(4) if affine is None else affine, np.float64),
    }
    if quantization is not None:
        tensors |= {name: np.array(getattr(quantization, name), np.float32) for name in ("step", "zero")}
    i, j, k = codes.shape
    return serialize_case(tensors, (i, j, k))


def serialize_previous_labels(codes: Array) -> bytes:
    """The file of the labels that another network found in a preprocessed case.

    Args:
        codes: ``(I, J, K)`` uint8 on the grid of the case.
    """
    i, j, k = codes.shape
    return serialize_case({_PREVIOUS: to_blocks(codes[None])}, (i, j, k))


def open_stored_case(
    file: CaseFile, case_id: str, annotated: tuple[bool, ...] | None, *, in_memory: bool
) -> StoredCase:
    """A case from its file.

    Args:
        file: From `medunet.preprocessing.case_file.open_case_file`.
        case_id: Of the case.
        annotated: See `StoredCase`.
        in_memory: Read and check everything now, instead of boxes later.

    Raises:
        DamagedCaseError: If everything is read and is not what was written.
    """
    quantization = None
    if "step" in file.entries:
        step, zero = (tuple(file.read_tensor(name).tolist()) for name in ("step", "zero"))
        quantization = Quantization(step=step, zero=zero)
    case = StoredCase(
        case_id=case_id,
        path=file.path,
        shape=file.shape,
        fill=torch.from_numpy(file.read_tensor("fill")),
        foreground=ForegroundIndex(
            file.read_tensor("foreground_counts"),
            lambda start, stop: torch.from_numpy(file.read_rows("foreground", start, stop)),
        ),
        quantization=quantization,
        checksum=file.checksum,
        annotated=annotated,
        file=file,
        affine=file.read_tensor("affine"),
    )
    return _hold(case, file) if in_memory else case


def _hold(case: StoredCase, file: CaseFile) -> StoredCase:
    file.verify()
    box = whole_box(file.shape)
    positions = torch.from_numpy(file.read_tensor("foreground"))
    return dataclasses.replace(
        case,
        image=torch.from_numpy(file.read_box("image", box)),
        labels=torch.from_numpy(file.read_box("labels", box)[0]),
        foreground=ForegroundIndex(file.read_tensor("foreground_counts"), lambda start, stop: positions[start:stop]),
        file=None,
    )


def _move(tensor: Tensor, device: torch.device | None) -> Tensor:
    if device is None:
        return tensor
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()  # a copy from there lets the host go on
    return tensor.to(device, non_blocking=True)
