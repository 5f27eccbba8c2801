"""The checks and measurements for one GPU: `python -m benchmarks.gpu --out DIR`."""
