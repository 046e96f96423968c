"""Results on disk: Zarr stores, written block by block, complete or not there at all."""
