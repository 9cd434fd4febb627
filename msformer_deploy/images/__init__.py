"""Files to pixels: what a file is, its first picture as it is stored, and the intensities that become 0 and 1."""
