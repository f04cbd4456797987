"""``medunet doctor``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path


def doctor() -> None:
    """Print versions, devices, memory, disk, cores, and what is missing for which feature."""
    import psutil
    from rich.console import Console
    from rich.table import Table

    import medunet
    from medunet.models import get_runs_folder

    table = Table("what", "found", show_header=False)
    table.add_row("medunet", medunet.__version__)
    table.add_row("python", platform.python_version())
    for package, feature in _PACKAGES.items():
        table.add_row(package, _describe_package(package, feature))
    table.add_row("cores", str(os.cpu_count()))
    memory = psutil.virtual_memory()
    table.add_row("memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free")
    runs = get_runs_folder().resolve()
    table.add_row("runs", f"{runs} ({_describe_disk(runs)})")
    for name, description in _list_devices():
        table.add_row(name, description)
    Console().print(table)


_PACKAGES = {
    "torch": "everything",
    "monai": "preprocessing",
    "torchio": "--augmentation torchio",
    "nibabel": "reading and writing NIfTI",
    "pydicom": "reading and writing DICOM",
    "highdicom": "writing DICOM SEG",
    "pylibjpeg": "compressed DICOM (JPEG 2000, RLE)",
    "python-gdcm": "compressed DICOM (JPEG)",
    "contourpy": "writing RTSTRUCT",
    "pillow": "PNG and TIFF",
    "SimpleITK": "SimpleITK images in Python, --augmentation torchio",
    "lightning-fabric": "training",
    "safetensors": "models",
    "tensorboard": "training",
    "matplotlib": "pictures",
    "openvino": "faster inference on the CPU, --format openvino",
    "onnxruntime": "--format onnx",
}


def _describe_package(package: str, feature: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"missing, needed for {feature}: pip install {package}"


def _describe_disk(folder: Path) -> str:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    writable = "" if os.access(existing, os.W_OK) else ", NOT WRITABLE"
    return f"{shutil.disk_usage(existing).free / 2**30:.1f} GiB free{writable}"


def _list_devices() -> list[tuple[str, str]]:
    try:
        import torch
    except ImportError as error:
        return [("devices", f"unknown, torch cannot be imported: {error}")]

    from medunet.device import choose_device, choose_precision

    devices = [("cpu", f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append((f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    chosen = choose_device()
    return [*devices, ("--device auto", f"{chosen}, {choose_precision(chosen)}")]
