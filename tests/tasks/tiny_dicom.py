"""Small DICOM series and RTSTRUCT objects, written attribute by attribute, without the code that reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medunet.volume import Affine

NUM_COLUMNS, NUM_ROWS, NUM_SLICES = 7, 6, 4
SHAPE = (NUM_COLUMNS, NUM_ROWS, NUM_SLICES)
CT, RTSTRUCT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.481.3"

Box = tuple[tuple[int, int], tuple[int, int], Iterable[int]]
"""First and last column, first and last row, slices."""


def build_affine_lps(angle: float = 0.3) -> Affine:
    """Column, row and slice to LPS mm: 0.8 x 1.1 x 3 mm, turned about the patient's left-right axis."""
    cosine, sine = np.cos(angle), np.sin(angle)
    affine = np.eye(4)
    affine[:3, 0] = [0.8, 0, 0]
    affine[:3, 1] = np.array([0, cosine, sine]) * 1.1
    affine[:3, 2] = np.array([0, -sine, cosine]) * 3.0
    affine[:3, 3] = [-12.0, 31.0, 55.0]
    return affine


def write_series(
    folder: Path, *, modality: str = "CT", series_uid: str = "", frame_uid: str = "", seed: int = 0
) -> str:
    """Write the slices in shuffled order; the value of a pixel is ``100 * slice + 10 * row + column``.

    Returns:
        SeriesInstanceUID.
    """
    series_uid, frame_uid = series_uid or generate_uid(), frame_uid or generate_uid()
    affine = build_affine_lps()
    for name, k in enumerate(np.random.default_rng(seed).permutation(NUM_SLICES).tolist()):
        dataset = _start(CT if modality == "CT" else "1.2.840.10008.5.1.4.1.1.4", modality, series_uid)
        dataset.FrameOfReferenceUID, dataset.InstanceNumber = frame_uid, k + 1
        dataset.Rows, dataset.Columns = NUM_ROWS, NUM_COLUMNS
        dataset.PixelSpacing = [1.1, 0.8]
        dataset.ImageOrientationPatient = _to_text([*(affine[:3, 0] / 0.8), *(affine[:3, 1] / 1.1)])
        dataset.ImagePositionPatient = _to_text(affine @ [0, 0, k, 1])[:3]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
        rows, columns = np.indices((NUM_ROWS, NUM_COLUMNS))
        dataset.PixelData = (100 * k + 10 * rows + columns).astype(np.int16).tobytes()
        _write(dataset, folder / f"IM{name:03d}")
    return series_uid


def write_rtstruct(
    path: Path,
    structures: Mapping[str, Box | None],
    *,
    series_uid: str,
    frame_uid: str = "",
    like: Path | None = None,
    patient: str = "4711",
) -> Path:
    """Write boxes as contours through the corners of their outermost pixels; None is a structure without contours.

    Args:
        path: Where to.
        structures: Name -> box.
        series_uid: Of the images.
        frame_uid: Frame of reference; empty takes that of the slice ``like``.
        like: A slice.
        patient: PatientID.
    """
    import pydicom

    frame_uid = frame_uid or str(pydicom.dcmread(like).FrameOfReferenceUID)  # type: ignore[arg-type]
    dataset = _start(RTSTRUCT, "RTSTRUCT", generate_uid())
    dataset.StructureSetLabel, dataset.PatientID = "x", patient
    dataset.ReferencedFrameOfReferenceSequence = [
        _item(
            FrameOfReferenceUID=frame_uid,
            RTReferencedStudySequence=[_item(RTReferencedSeriesSequence=[_item(SeriesInstanceUID=series_uid)])],
        )
    ]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, box) in enumerate(structures.items(), start=1):
        roi = _item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=frame_uid)
        dataset.StructureSetROISequence.append(roi)
        contours = [] if box is None else [_build_contour(box, k) for k in box[2]]
        dataset.ROIContourSequence.append(_item(ReferencedROINumber=number, ContourSequence=contours))
    return _write(dataset, path)


def write_case(
    folder: Path, structures: Mapping[str, Box | None], *, modality: str = "CT", rtstruct: str = "rs.dcm"
) -> Path:
    """A folder with a series in ``ct/`` and an RTSTRUCT object beside it."""
    uid = write_series(folder / "ct", modality=modality)
    write_rtstruct(folder / rtstruct, structures, series_uid=uid, like=folder / "ct" / "IM000")
    return folder


def _build_contour(box: Box, k: int) -> Dataset:
    (left, right), (top, bottom), _ = box
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    outline = [(i + (0.4 if i == right else -0.4), j + (0.4 if j == bottom else -0.4)) for i, j in corners]
    points = [build_affine_lps() @ [i, j, k, 1] for i, j in outline]
    return _item(
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=4,
        ContourData=_to_text(np.array(points)[:, :3].ravel()),
    )


def _start(sop_class: str, modality: str, series_uid: str) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.Modality, dataset.SeriesInstanceUID, dataset.StudyInstanceUID = modality, series_uid, "1.2.3.4"
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = "4711", "Doe^John", "19500101"
    return dataset


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _to_text(numbers: Iterable[float]) -> list[str]:
    return [f"{number:.9f}"[:16] for number in numbers]


def _write(dataset: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    FileDataset(str(path), dataset, file_meta=meta, preamble=bytes(128)).save_as(path, enforce_file_format=True)
    return path
