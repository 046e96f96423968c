"""HDF5: h5USID, NSID, NeXus, and arrays without a model."""
