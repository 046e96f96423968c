"""Images of the brain: NIfTI, Analyze, MGH, CIFTI."""

from penstock.io.nifti.stream import open_streams as open_streams
