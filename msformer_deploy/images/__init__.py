"""Files to pixels: the format of a file, its first picture as stored, and the intensities that become 0 and 1."""
