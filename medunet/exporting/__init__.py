"""Models for other programs: ONNX, OpenVINO, TorchScript, MONAI bundles; compared with the original before they appear."""

from medunet.exporting.exporter import EXPORT_FORMATS, Export, ExportFormat, export

__all__ = ["EXPORT_FORMATS", "Export", "ExportFormat", "export"]
