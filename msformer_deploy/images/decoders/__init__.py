"""One decoder per kind of image file: bytes to pixels, as they are stored."""
