"""The hot operations of self-guided segmentation: one name each, tested against one torch reference."""

from .ops import cluster_argmax, cross_scale_attention, head_refine_step

__all__ = ["cluster_argmax", "cross_scale_attention", "head_refine_step"]
