"""Training on images with masks."""
