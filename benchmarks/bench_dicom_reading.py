"""Reading a CT series of 600 slices: medunet beside SimpleITK's series reader, time and memory.

```sh
python benchmarks/bench_dicom_reading.py             # 512x512x600, the table of docs/geometry.md
python benchmarks/bench_dicom_reading.py --slices 60 # a quick look
```

Each reader runs in a process of its own, in turns, on the same files, which the file cache of the system holds. The time
is that from the folder's name to voxels in memory, without starting Python and importing; SimpleITK lists and sorts the
files of the folder (``GetGDCMSeriesFileNames``) and reads them. Memory is the peak of the process less what it had before.
medunet checks every slice and gives int16 in HU; SimpleITK gives int32 in HU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

_MEASURE = """
import json, resource, sys, time
folder = sys.argv[1]
{imports}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
{read}
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({{"seconds": seconds, "mib": (peak - before) / 1024, "shape": shape, "sum": total}}))
"""
_READERS = {
    "medunet": (
        "import nibabel, psutil, pydicom.pixels; from pathlib import Path; from medunet.io.dicom.read import read_dicom",
        "array = read_dicom(Path(folder)).volume.array; shape = list(array.shape[1:]); total = int(array[0, ::16, ::16].sum())",
    ),
    "SimpleITK": (
        "import SimpleITK as sitk",
        "reader = sitk.ImageSeriesReader(); reader.SetFileNames(reader.GetGDCMSeriesFileNames(folder)); "
        "image = reader.Execute(); shape = list(image.GetSize()); "
        "total = int(sitk.GetArrayViewFromImage(image)[:, ::16, ::16].sum())",
    ),
}


def main() -> None:
    """Write a series, read it in turns, print seconds, memory and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_series(Path(folder), arguments.slices)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in _READERS}
        for _ in range(arguments.rounds):
            for name, (imports, read) in _READERS.items():
                found[name].append(measure(imports, read, folder))
    results = [result for rows in found.values() for result in rows]
    assert len({(tuple(result["shape"]), result["sum"]) for result in results}) == 1, "the readers disagree"  # type: ignore[arg-type]
    float32_mib = 512 * 512 * arguments.slices * 4 / 2**20
    print(
        f"512x512x{arguments.slices}, {arguments.rounds} rounds, medians; the volume in float32: {float32_mib:.0f} MiB"
    )
    medians = {name: statistics.median(row["seconds"] for row in rows) for name, rows in found.items()}
    for name, rows in found.items():
        mib = max(row["mib"] for row in rows)
        low, high = min(row["seconds"] for row in rows), max(row["seconds"] for row in rows)
        print(
            f"{name:10} {medians[name]:6.2f} s ({low:.2f} to {high:.2f})   peak {mib:6.0f} MiB "
            f"= {mib / float32_mib:.2f} x float32"
        )
    print(f"time of medunet / time of SimpleITK: {medians['medunet'] / medians['SimpleITK']:.2f}")


def measure(imports: str, read: str, folder: str) -> dict[str, float]:
    """One reading in a fresh process."""
    code = _MEASURE.format(imports=imports, read=read)
    outcome = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(outcome.stdout.splitlines()[-1])
    return result


def write_series(folder: Path, num_slices: int) -> None:
    """A CT series as a scanner writes it: 12 bits, explicit little endian, a hundred attributes, shuffled names."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    rng = np.random.default_rng(0)
    names = rng.permutation(num_slices)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    noise = rng.integers(0, 4096, (512, 512 + num_slices), dtype=np.uint16)
    for index in range(num_slices):
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.Modality, dataset.PatientID, dataset.PatientName = "CT", "benchmark", "benchmark"
        dataset.ImageType, dataset.SeriesNumber, dataset.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 2, index + 1
        dataset.ImagePositionPatient = [-250, -250, -300 + 1.25 * index]
        dataset.ImageOrientationPatient, dataset.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.9765625, 0.9765625]
        dataset.SliceThickness, dataset.KVP, dataset.ExposureTime = 1.25, 120, 500
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 512, 512, 1
        dataset.PhotometricInterpretation, dataset.BitsAllocated, dataset.BitsStored = "MONOCHROME2", 16, 12
        dataset.HighBit, dataset.PixelRepresentation = 11, 0
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
        private = dataset.private_block(0x0019, "BENCHMARK", create=True)
        for element in range(60):
            private.add_new(element, "DS", "1.5")
        dataset.PixelData = np.ascontiguousarray(noise[:, index : index + 512]).tobytes()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(folder / f"IM{names[index]:05d}.dcm", enforce_file_format=True)


if __name__ == "__main__":
    main()
