"""Where blocks run: threads, processes of this machine, the workers of a Dask cluster."""
