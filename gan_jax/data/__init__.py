"""Image data sets as uint8 arrays, from wherever the images are to be had."""
