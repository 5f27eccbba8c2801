"""Scores of images by name, and the real images that they are compared with."""
