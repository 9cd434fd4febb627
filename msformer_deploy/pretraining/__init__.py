"""Adapting the encoder to a folder of unlabelled images, and judging on images it has not seen whether that helped."""
