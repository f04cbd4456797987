"""Read every DICOM folder of the real data and compare it with its reference NIfTI: the table of docs/geometry.md.

```sh
python benchmarks/check_dicom_geometry.py ../shared/data/dicom
```
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import nibabel as nib
import numpy as np

from medunet.errors import MedunetError
from medunet.io.dicom.read import read_dicom
from medunet.io.scan import ReadOptions, Scan
from medunet.volume import Volume, compute_grid_distance_mm, to_orientation

_NO_DICOM = {".gz", ".nii", ".json", ".md", ""}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    logging.disable(logging.WARNING)
    print("\n".join(build_table(parser.parse_args().folder)))


def build_table(root: Path) -> list[str]:
    """Markdown, one line per input and set of options."""
    lines = ["| input | what is read | against its reference |", "|---|---|---|"]
    for path in list_inputs(root):
        name = f"`{path.relative_to(root)}`"
        for options, label in ((ReadOptions(), ""), (ReadOptions(allow_gaps=True), " `--allow-gaps`")):
            try:
                scan = read_dicom(path, options)
            except MedunetError as error:
                lines.append(f"| {name}{label} | refused: {describe_error(error, path)} | |")
                if "--allow-gaps" not in str(error):
                    break
                continue
            lines.append(f"| {name}{label} | {describe_scan(scan)} | {compare(scan, find_reference(path))} |")
            break
    return lines


def list_inputs(root: Path) -> list[Path]:
    """Folders that hold slices, and the single files of the 12-bit set, which are a volume each."""
    folders = {path.parent for path in root.rglob("*") if path.is_file() and is_slice(path)}
    single = [path for path in sorted(folders) if "12bit" in str(path)]
    inputs = [path for path in folders if path not in single]
    return sorted(inputs) + sorted(path for folder in single for path in folder.iterdir())


def is_slice(path: Path) -> bool:
    """Whether the content is DICOM with pixel data of interest: masks are read elsewhere."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM" and path.parent.name != "mask"


def find_reference(path: Path) -> Path | None:
    """The NIfTI file that the data set brings for an input."""
    candidates = [path.parent / f"{path.name}_ground_truth.nii.gz"]
    if path.name == "image":
        candidates.append(path.parent.parent / "nifti" / f"{path.parent.name}_image.nii.gz")
    names = {"12bitUnsigned.dcm": "2.nii", "12bitUnsigned_0x0F0F.dcm": "3.nii", "12bitSigned_0x0F0F.dcm": "4.nii"}
    candidates.append(path.parent.parent / "Ref" / names.get(path.name, "none"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def compare(scan: Scan, reference: Path | None) -> str:
    """Largest distance of a corner and largest difference of an intensity, on the axes of the scan."""
    if reference is None:
        return "none"
    image = nib.load(reference)
    array = np.asarray(image.dataobj)
    if array.dtype.fields:
        return "a colour picture"
    array = array[..., 0] if array.ndim == 4 else array
    other = to_orientation(Volume(array[None], image.affine), scan.volume.orientation)
    distance = compute_grid_distance_mm(scan.volume, other)
    if not np.isfinite(distance):
        return f"another grid: {other.spatial_shape}"
    difference = np.abs(scan.volume.array.astype(np.float64) - other.array)
    return f"corners {distance:.4f} mm, intensities {difference.max():.3g} of {np.ptp(other.array):.4g}"


def describe_scan(scan: Scan) -> str:
    """Shape, spacing, orientation, and notes on how the slices lie."""
    volume = scan.volume
    notes = " ".join(note for note in scan.notes if not note[0].isdigit())
    spacing = "x".join(f"{mm:.3g}" for mm in volume.spacing)
    grid = f"{'x'.join(map(str, volume.spatial_shape))}, {spacing} mm, {volume.orientation}"
    return f"{grid}. {notes}".strip().replace("|", "/")


def describe_error(error: MedunetError, path: Path) -> str:
    """The message up to its remedy, with short paths."""
    text = str(error).replace(f"{path}/", "").replace(str(path), path.name).replace("|", "/")
    return text if len(text) < 240 else f"{text[:237]}..."


if __name__ == "__main__":
    main()
