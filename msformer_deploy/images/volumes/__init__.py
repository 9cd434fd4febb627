"""NIfTI, NRRD and MetaImage: voxels and their place in the patient, in and out."""
