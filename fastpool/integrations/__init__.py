"""fastpool inside other frameworks. Nothing here is imported unless asked for.

- `fastpool.integrations.dask`: what Dask arrays are handed to, and pyramids in Zarr
- `fastpool.integrations.deepnet`: for the from-scratch framework deepnet and for cs231n's im2col
- `fastpool.integrations.keras`: layers for Keras 3
- `fastpool.integrations.torch`: operators and modules for PyTorch
"""
