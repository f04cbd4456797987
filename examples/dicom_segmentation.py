"""Segment a DICOM folder, write the mask as NIfTI, DICOM SEG and RTSTRUCT, and read all three back.

    python examples/dicom_segmentation.py --output runs/dicom-example

The DICOM series is a synthetic one, so the script needs no data; with a folder and a model of yours, only the lines of
`segment` remain. Everything is written below the output folder.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

import medunet
from medunet.io import read_scan, read_structures
from medunet.phantoms import make_phantom_case, write_phantom_dataset

TASK = "hippocampus-mr"
UNSEEN_SEED = 1000  # training makes the seeds 0 to 7


def main() -> None:
    """Make a series and a model, segment, read back, print."""
    arguments = parse_arguments()
    folder: Path = arguments.output / "series"
    os.environ.setdefault("MEDUNET_HOME", str(arguments.output))  # where preprocessed cases go
    write_series(make_phantom_case(TASK, UNSEEN_SEED).image, folder)
    model = train_small_model(arguments.output, arguments.budget)
    masks = segment(folder, model, arguments.output)
    for mask in masks:
        print(f"{mask.name:<14} {describe_volumes(mask, folder)}")


def parse_arguments() -> argparse.Namespace:
    """Two options, both with a default."""
    parser = argparse.ArgumentParser(description="Segment a DICOM folder and write DICOM.")
    parser.add_argument("--budget", default="30it", help="of training, such as 30s or 500it (default: 30it)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/dicom-example"), help="new folder (default: runs/dicom-example)"
    )
    return parser.parse_args()


def segment(folder: Path, model: Path, output: Path) -> list[Path]:
    """One mask in three formats; the DICOM objects belong to the study of the slices."""
    segmentation = medunet.load(model).segment(folder)
    in_memory = ", ".join(f"{name} {volume.visible_ml:.2f} ml" for name, volume in segmentation.volumes.items())
    print(f"{'in memory':<14} {in_memory}")
    return [
        segmentation.save(output / "mask.nii.gz"),
        segmentation.save(output / "seg.dcm", mask_format="dicom-seg"),
        segmentation.save(output / "rtstruct.dcm", mask_format="rtstruct"),
    ]


def describe_volumes(mask: Path, folder: Path) -> str:
    """Volumes of the structures that a mask file lists; an RTSTRUCT needs the scan, the others are checked against it."""
    structures = read_structures(mask, read_scan(folder))
    voxel_ml = structures.layers.voxel_volume_mm3 / 1000
    return ", ".join(
        f"{structure.name} {structures.get_mask(structure).sum() * voxel_ml:.2f} ml"
        for structure in structures.structures
    )


def train_small_model(output: Path, budget: str) -> Path:
    """A model that is good for this example only."""
    write_phantom_dataset(TASK, output / "phantoms", num_cases=8, num_workers=1)
    return medunet.train(TASK, output / "phantoms", output=output / "model", budget=budget, fold="all").folder


def write_series(volume: medunet.Volume, folder: Path) -> None:
    """A volume of whole numbers as MR slices, one file each; array axes I, J, K become columns, rows, slices."""
    folder.mkdir(parents=True)
    affine_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine  # DICOM counts to the left and to posterior
    directions = affine_lps[:3, :3] / volume.spacing
    study, series, frame_of_reference = (generate_uid() for _ in range(3))
    for k, plane in enumerate(np.moveaxis(volume.array[0], 2, 0)):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.FrameOfReferenceUID = frame_of_reference
        dataset.PatientName, dataset.PatientID = "Phantom^Synthetic", "SYNTHETIC"
        dataset.Modality, dataset.SeriesNumber, dataset.SeriesDescription = "MR", 1, "synthetic T1"
        dataset.InstanceNumber = k + 1
        dataset.ImageOrientationPatient = directions[:, :2].T.ravel().tolist()
        dataset.ImagePositionPatient = (affine_lps @ [0, 0, k, 1])[:3].tolist()
        dataset.PixelSpacing = [volume.spacing[1], volume.spacing[0]]  # of rows, then of columns
        dataset.SliceThickness = volume.spacing[2]
        dataset.Rows, dataset.Columns = plane.shape[1], plane.shape[0]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.PixelData = np.ascontiguousarray(plane.T, dtype="<i2").tobytes()
        dataset.save_as(folder / f"slice{k:03d}.dcm", enforce_file_format=True)


if __name__ == "__main__":
    main()
