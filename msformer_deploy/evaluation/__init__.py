"""Evaluation against ground truth: protocols, scores, baselines, and how they are told. Names only here, no arrays."""

LABEL_FREE = "label-free"
PROTOCOLS = (LABEL_FREE, "published", "oracle-cluster", "oracle-regions")
OF_VOLUMES = (LABEL_FREE, "oracle-cluster")  # the protocols that volumes are judged by
BASELINES = ("otsu", "kmeans")
PROMPTS = ("none", "click", "box", "click2")  # that label-free masks of images can be given, drawn from the truth
