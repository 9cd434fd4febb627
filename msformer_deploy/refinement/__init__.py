"""Features to label map: the learning on one image."""
