"""Data sets as arrays, the pure pipeline that batches them, and synthetic data."""
