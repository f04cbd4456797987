"""Files and foreign images to and from `Volume`; the only room that opens images."""

from medunet.io.atomic import (
    check_output,
    describe_write_error,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)
from medunet.io.formats import (
    IMAGE_SUFFIXES,
    VOLUME_SUFFIXES,
    is_dicom_file,
    is_dicom_folder,
    is_dicom_source,
    list_volumes,
    strip_suffix,
)
from medunet.io.memory import describe_source, from_memory, is_nibabel, is_simpleitk, to_lps_image
from medunet.io.nifti_file import is_nifti
from medunet.io.nifti_write import to_nibabel, write_nifti_image, write_nifti_labels
from medunet.io.reading import (
    merge_options,
    read_channels,
    read_label_map,
    read_scan,
    read_structures,
    read_volume,
)
from medunet.io.scan import ReadOptions, Scan
from medunet.io.structures import Code, Structure, StructureSet, from_label_map, from_masks
from medunet.io.writing import (
    MASK_FORMATS,
    MaskFormat,
    SegKind,
    choose_mask_format,
    get_mask_suffix,
    list_outputs,
    write_image,
    write_structures,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "MASK_FORMATS",
    "VOLUME_SUFFIXES",
    "Code",
    "MaskFormat",
    "ReadOptions",
    "Scan",
    "SegKind",
    "Structure",
    "StructureSet",
    "check_output",
    "choose_mask_format",
    "describe_source",
    "describe_write_error",
    "from_label_map",
    "from_masks",
    "from_memory",
    "get_mask_suffix",
    "is_dicom_file",
    "is_dicom_folder",
    "is_dicom_source",
    "is_nibabel",
    "is_nifti",
    "is_simpleitk",
    "list_outputs",
    "list_volumes",
    "merge_options",
    "read_channels",
    "read_label_map",
    "read_scan",
    "read_structures",
    "read_volume",
    "strip_suffix",
    "to_lps_image",
    "to_nibabel",
    "write_bytes_atomic",
    "write_image",
    "write_json_atomic",
    "write_nifti_image",
    "write_nifti_labels",
    "write_structures",
    "write_text_atomic",
]
