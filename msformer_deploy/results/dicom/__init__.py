"""Results as DICOM objects of the source's study: segmentations, pictures and measurements."""
