"""Every kind of image file, and what its pixels are as RGB of 8 bits, upright."""
