"""One reader for image files of every kind: PNG, JPEG, TIFF, DICOM. Needs no torch."""
