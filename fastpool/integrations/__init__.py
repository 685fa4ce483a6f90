"""fastpool inside other frameworks. Nothing here is imported unless asked for.

- `fastpool.integrations.cs231n`: the fast layers and the im2col of Stanford's course CS231n
- `fastpool.integrations.dask`: what Dask arrays are handed to, and pyramids in Zarr
- `fastpool.integrations.deepnet`: the layers of the from-scratch framework deepnet
- `fastpool.integrations.dlfs`: the columns and layers of "Deep Learning from Scratch", and the columns of DeZero
- `fastpool.integrations.keras`: layers for Keras 3
- `fastpool.integrations.numpy_ml`: the columns of numpy-ml
- `fastpool.integrations.torch`: operators and modules for PyTorch
"""
