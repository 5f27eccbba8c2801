"""Data sets as arrays, a pure pipeline that makes batches, and synthetic data."""
