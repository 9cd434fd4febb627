"""Small networks of MCSC, for tests that train them."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "side": 64,
    "window": 2,
    "unet_widths": (4, 6, 8, 10, 12),
    "swin_width": 4,
    "swin_depths": (1, 1, 1, 1),
    "swin_heads": (1, 1, 2, 2),
    "projector_hidden": 8,
    "projector_outputs": 4,
    "full_block": 16,
    "coarse_block": 4,
}
