"""The hot operations of self-guided segmentation. Every implementation is tested against one torch reference."""

from .ops import (
    KernelFallback,
    cluster_argmax,
    cross_scale_attention,
    fallbacks,
    head_refine_loop,
    head_refine_step,
    using,
)

__all__ = [
    "KernelFallback",
    "cluster_argmax",
    "cross_scale_attention",
    "fallbacks",
    "head_refine_loop",
    "head_refine_step",
    "using",
]
