"""Labels and image to mask. Needs neither torch nor onnx."""
