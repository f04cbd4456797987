"""DICOM series to `Volume`, and DICOM SEG and RTSTRUCT in both directions."""
