"""One decoder per image format: from bytes to pixels as the file stores them."""
