"""fastpool on Dask arrays."""
