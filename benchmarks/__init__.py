"""Benchmarks of fastpool: `python -m benchmarks.peers` times it side by side with other libraries."""
