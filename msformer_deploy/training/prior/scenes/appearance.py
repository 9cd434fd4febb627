"""What lies over a scene, and what the camera makes of it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .canvas import Canvas, Colour, Field, paint, soft


def hairs(c: Canvas, image: Field, colour: Colour, most: int = 10) -> None:
    for _ in range(c.integer(1, most)):
        width = c.uniform(0.3, 1.3) * c.pixel
        paint(image, colour, soft(c.curve(width, 0.8), c.pixel) * np.float32(c.uniform(0.4, 1)))


def glints(c: Canvas, image: Field, amount: float = 1.0, where: Field | None = None) -> None:
    """Small white reflections, rather where ``where`` is large (mean 0, deviation 1)."""
    field = c.noise(c.log_uniform(0.03, 0.12))
    level = c.uniform(1.7, 2.8) / amount
    if where is not None:
        field = field + where
    paint(image, c.uniform(0.85, 1.1), soft(field - np.float32(level), 0.4))


def illuminate(c: Canvas, image: Field, strength: float = 0.5) -> None:
    """Light from somewhere, less of it further away."""
    x, y = c.uniform(-0.8, 0.8), c.uniform(-0.8, 0.8)
    distance = (c.x - np.float32(x)) ** 2 + (c.y - np.float32(y)) ** 2
    image *= np.float32(c.uniform(0.9, 1.25)) / (1 + np.float32(c.uniform(0, strength)) * distance)


def vignette(c: Canvas, image: Field) -> None:
    """Corners or a whole surround that get dark."""
    radius, edge = c.uniform(0.8, 1.25), c.log_uniform(0.05, 0.6)
    field = c.ellipse_of_image(c.uniform(-0.08, 0.08), c.uniform(-0.08, 0.08), radius, radius * c.uniform(0.85, 1.25))
    dark = c.uniform(0, 0.5)
    image *= np.float32(dark) + np.float32(1 - dark) * soft(field, edge)


def frame(c: Canvas, image: Field) -> Field:
    """The black surround of a scope; what is seen of the scene, 0..1."""
    kind = c.rng.random()
    a, b = c.uniform(0.78, 1.05), c.uniform(0.78, 1.05)
    x, y = c.uniform(-0.08, 0.08), c.uniform(-0.08, 0.08)
    if kind < 0.35:  # a rectangle, its corners cut off
        box = np.minimum(a - np.abs(c.x - np.float32(x)), b - np.abs(c.y - np.float32(y)))
        cut = c.uniform(1.3, 1.9)
        seen = np.minimum(box, np.float32(cut * min(a, b)) - np.abs(c.x) - np.abs(c.y)).astype(np.float32)
    elif kind < 0.6:
        seen = c.ellipse_of_image(x, y, a, b, 4)
    else:
        seen = c.ellipse_of_image(x, y, a * 1.1, b * 1.1)
    if c.chance(0.4):  # where a picture of the instrument or a text is
        width, height = c.uniform(0.25, 0.8), c.uniform(0.25, 0.8)
        right, lower = -1.0 if c.chance(0.7) else 1.0, -1.0 if c.chance(0.15) else 1.0
        patch = np.minimum(c.x * np.float32(right) - np.float32(1 - width), c.y * np.float32(lower) - (1 - height))
        seen = np.minimum(seen, -patch.astype(np.float32))
    visible = soft(seen, c.log_uniform(0.5, 3) * c.pixel)
    paint(image, c.uniform(0, 0.08), 1 - visible)
    if c.chance(0.12):  # a drawing of the instrument's position
        width, height = c.uniform(0.2, 0.6), c.uniform(0.2, 0.6)
        inset = np.minimum(np.float32(width - 1) - c.x, c.y - np.float32(1 - height))
        paint(image, c.rng.random(3) * 0.6, (inset > 0).astype(np.float32))
        paint(image, c.rng.random(3), ((np.abs(inset - 0.08) < 0.03) & (c.noise(0.1) > 0)).astype(np.float32))
        visible = np.minimum(visible, 1 - (inset > 0))
    return visible


def writing(c: Canvas, image: Field) -> None:
    """Signs near the rim, as instruments write them."""
    for _ in range(c.integer(1, 3)):
        top = int(c.rng.choice((c.integer(1, 12), c.side - c.integer(6, 18))))
        left, length = c.integer(1, c.side - 20), c.integer(4, 20)
        sign = c.rng.random((c.integer(2, 4), length)) < 0.6
        rows, columns = sign.shape
        part = image[..., top : top + rows, left : left + columns]
        sign = sign[: part.shape[-2], : part.shape[-1]]
        part[..., sign] = c.uniform(0.6, 1.0)


def ultrasound(c: Canvas, echo: Field, looks: float = 1.6) -> Field:
    """Speckle: the echo's amplitude times a Rayleigh variable of some averaged looks, then a logarithmic scale."""
    fine = c.uniform(0.02, 0.06)
    real, imaginary = c.noise(fine), c.noise(fine)
    amplitude = np.sqrt(0.5 * (real * real + imaginary * imaginary))
    speckled = echo * (1 + np.float32(1 / looks) * (amplitude - np.float32(0.886)) * np.float32(1.6))
    gain = np.float32(c.log_uniform(0.5, 15))
    return np.log1p(gain * np.maximum(speckled, 0)) / np.log1p(gain)


def photographed(c: Canvas, image: Field, *, inverts: float = 0.0, noise: float = 0.07) -> Field:
    """What a camera makes of a scene: tone, blur, noise; RGB (3, S, S) within 0..1.

    Args:
        c: the canvas.
        image: (S, S) or (3, S, S); it is changed.
        inverts: how often bright and dark are exchanged.
        noise: maximum deviation of the noise.
    """
    rng = c.rng
    if image.ndim == 3 and c.chance(0.08):
        image = np.tensordot(c.near((0.33, 0.5, 0.17), 0.1), image, 1)
    if c.chance(inverts):
        image = 1 - image
    if c.chance(0.5):
        image = np.clip(image, 0, 1.3) ** np.float32(2 ** c.uniform(-0.7, 0.7))
    if c.chance(0.5):
        image = (image - np.float32(0.5)) * np.float32(c.log_uniform(0.5, 1.4)) + np.float32(c.uniform(0.35, 0.65))
    if image.ndim == 3 and c.chance(0.5):
        image = image * c.near((1, 1, 1), 0.08)[:, None, None]
    kind = rng.random()
    if kind < 0.4:
        sigma = c.log_uniform(0.3, 1.3)
        image = ndimage.gaussian_filter(image, (*(0,) * (image.ndim - 2), sigma, sigma), mode="nearest", truncate=2.5)
    if c.chance(0.5):
        strength = np.float32(c.log_uniform(0.005, noise))
        image = image + strength * (c.grain() if image.ndim == 2 or c.chance(0.5) else _coloured_grain(c))
    if c.chance(0.15):
        image = image.copy()
        writing(c, image)
    image = np.clip(image, 0, 1).astype(np.float32)
    return image if image.ndim == 3 else np.broadcast_to(image, (3, c.side, c.side))


def _coloured_grain(c: Canvas) -> Field:
    return c.rng.standard_normal((3, c.side, c.side), np.float32)
