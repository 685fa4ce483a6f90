"""Benchmarks of fastpool: `python -m benchmarks.peers` compares it with other libraries."""
