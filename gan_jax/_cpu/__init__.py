"""Faster forms of what XLA compiles badly for a CPU. A GPU or TPU user never meets them."""
