"""Checks and measurements on one GPU: `python -m benchmarks.gpu --out DIR`."""
