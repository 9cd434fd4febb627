"""Ultrasound: speckle, attenuation by depth, shadows and enhancement behind things, sectors."""

from __future__ import annotations

import numpy as np

from .appearance import photographed, ultrasound, writing
from .canvas import Canvas, Drawing, Field, both, paint, soft


def _behind(c: Canvas, shape: Field, spread: float = 1.0) -> Field:
    """How much of a thing lies above each pixel, 0..1: sound comes from the top."""
    above = np.cumsum(shape > 0, axis=0).astype(np.float32) / np.float32(c.side * 0.2)
    return np.clip(above * np.float32(spread), 0, 1) * (shape <= 0)


def _depth_gain(c: Canvas, echo: Field) -> None:
    depth = (c.y + 1) / 2
    echo *= np.exp(np.float32(c.uniform(-0.8, 2.0)) * -depth) + np.float32(0.02)
    if c.chance(0.4):
        focus = (depth - np.float32(c.uniform(0.2, 0.6))) ** 2
        echo *= np.exp(-focus * np.float32(c.uniform(1, 8)))


def lesion(c: Canvas) -> Drawing:
    """A darker, rarely a lighter, mass in layered tissue: breast, thyroid and the like."""
    c.look(turn=0.12, zoom=(0.85, 1.25), shift=0.08, warp=c.uniform(0, 0.04))
    echo = np.float32(c.uniform(0.15, 0.5)) * np.exp(np.float32(c.uniform(0.1, 0.4)) * c.noise(0.3, 1, c.integer(1, 3)))
    bottoms = np.sort(c.rng.random(c.integer(2, 4))) * 1.8 - 0.9
    for bottom in bottoms:  # layers
        level = c.v - np.float32(bottom) - np.float32(c.uniform(0.02, 0.1)) * c.noise(0.6)
        echo = echo * np.where(level > 0, np.float32(c.log_uniform(0.5, 1.8)), np.float32(1))
        line = soft(np.float32(c.uniform(0.005, 0.03)) - np.abs(level), 0.03)
        echo = echo + line * np.float32(c.uniform(0, 0.8)) * soft(c.noise(0.3), 2)
    streaks = c.noise(c.uniform(0.1, 0.25), 1, c.integer(3, 6))  # fibres along the skin
    echo = echo + soft(streaks - np.float32(c.uniform(0.8, 1.8)), 1) * np.float32(c.uniform(0, 0.4))
    skin = soft(np.float32(c.uniform(-0.95, -0.75)) - c.y, 0.06)
    echo = echo + skin * np.float32(c.uniform(0, 0.8))
    size = c.log_uniform(0.14, 0.6)
    shape = c.blob(
        c.uniform(-0.5, 0.5),
        c.uniform(-0.5, 0.35),
        size * c.uniform(1.0, 1.5),
        size * c.uniform(0.55, 1.1),
        c.uniform(-0.5, 0.5),
        c.uniform(0.03, 0.3),
    )
    kind = c.rng.random()
    inside = soft(shape, c.log_uniform(1.5, 8) * c.pixel)
    ratio = c.log_uniform(0.02, 0.2) if kind < 0.5 else c.log_uniform(0.2, 0.6) if kind < 0.88 else c.uniform(1.4, 2.5)
    typical = np.float32(np.median(echo))
    body = typical * np.float32(ratio) * np.exp(np.float32(c.uniform(0.05, 0.5)) * c.texture(0.04, 0.3))
    rim = soft(np.float32(0.03) - np.abs(shape + np.float32(0.03)), 0.04)
    echo = echo * (1 + rim * np.float32(c.uniform(-0.3, 1.2)))
    paint(echo, body, inside * np.float32(c.uniform(0.75, 1)))
    shade = _behind(c, shape)
    change = c.uniform(-0.85, -0.2) if c.chance(0.5) else c.uniform(0.0, 0.9)
    echo *= 1 + np.float32(change) * shade * soft(c.noise(0.2, c.integer(1, 3), 1) + np.float32(1.5), 1.5)
    others = []
    if c.chance(0.35):  # another, fainter dark place
        second = c.random_blob(0.08, 0.3, 0.7)
        echo *= 1 - soft(second, 0.1) * np.float32(c.uniform(0.1, 0.5)) * (1 - inside)
        others.append(second)
    if c.chance(0.35):  # shadows from the surface
        stripes = soft(c.noise(0.4, c.integer(1, 3), 1)[c.side // 2][None, :] - np.float32(1.0), 0.6)
        echo *= 1 - stripes * np.float32(c.uniform(0.2, 0.8))
    return _shown(c, echo, shape, others, sector=0.15)


def breast(c: Canvas) -> Drawing:
    """A lesion among layers that fade with depth, beside shadows and dark muscle that are no figure."""
    c.look(turn=0.1, zoom=(0.9, 1.2), shift=0.05, warp=c.uniform(0.01, 0.04))
    depth = (c.v + 1) / 2
    gland = np.float32(c.uniform(0.25, 0.6))
    echo = gland * np.exp(np.float32(c.uniform(0.1, 0.3)) * c.noise(0.2, 1, c.integer(1, 3)))
    fat = soft(c.noise(c.uniform(0.15, 0.35), 1, 2) - np.float32(c.uniform(0.0, 1.2)), 1) * soft(0.5 - depth, 0.3)
    echo = echo * (1 - fat * np.float32(c.uniform(0.1, 0.6)))
    septa = soft(np.float32(0.1) - np.abs(c.noise(c.uniform(0.12, 0.3), 1, c.integer(2, 4))), 0.15)
    echo = echo * (1 + septa * np.float32(c.uniform(0, 1.2)))
    muscle = depth - np.float32(c.uniform(0.55, 0.95)) + np.float32(0.05) * c.noise(0.5)
    bands = np.abs(np.sin(depth * np.float32(c.uniform(20, 60)) + c.noise(0.3)))
    echo = echo * (1 - soft(muscle, 0.05) * (1 - np.float32(c.uniform(0.2, 0.7)) * (1 + np.float32(0.6) * bands)))
    echo = echo + soft(np.float32(0.015) - np.abs(muscle), 0.03) * np.float32(c.uniform(0, 0.6))
    skin = soft(np.float32(c.uniform(0.02, 0.08)) - depth, 0.03)
    echo = echo + skin * np.float32(c.uniform(0, 0.6))
    size = c.log_uniform(0.12, 0.5)
    x, y = c.uniform(-0.55, 0.55), c.uniform(-0.6, 0.2)
    wide = c.uniform(1.0, 1.8) if c.chance(0.8) else c.uniform(0.6, 1.0)
    shape = c.blob(x, y, size * wide, size * c.uniform(0.6, 1.0), c.uniform(-0.35, 0.35), c.uniform(0.02, 0.25))
    dark = c.chance(0.88)
    ratio = c.log_uniform(0.1, 0.7) if dark else c.uniform(1.2, 1.8)
    body = gland * np.float32(ratio) * np.exp(np.float32(c.uniform(0.05, 0.35)) * c.texture(0.05, 0.3))
    inside = soft(shape, c.log_uniform(1.5, 7) * c.pixel)
    halo = soft(np.float32(0.03) - np.abs(shape + np.float32(0.04)), 0.05)
    echo = echo * (1 + halo * np.float32(c.uniform(-0.2, 0.8)))
    paint(echo, body, inside * np.float32(c.uniform(0.8, 1)))
    change = c.uniform(-0.8, -0.2) if c.chance(0.6) else c.uniform(0.0, 0.8)
    echo *= 1 + np.float32(change) * _behind(c, shape)
    for _ in range(c.integer(0, 2)):  # shadows of septa, gas or the nipple
        column = c.uniform(-1, 1)
        band = soft(
            np.float32(c.uniform(0.05, 0.25)) - np.abs(c.u - np.float32(column) - c.v * c.uniform(-0.2, 0.2)), 0.15
        )
        below = soft(c.v - np.float32(c.uniform(-1, 0)), 0.2)
        echo *= 1 - band * below * np.float32(c.uniform(0.2, 0.8)) * (1 - inside)
    echo *= np.exp(-np.float32(c.uniform(0.2, 3.0)) * np.clip(depth - np.float32(c.uniform(0.3, 0.7)), 0, None))
    return _shown(c, echo, shape, [], sector=0.05)


def fetal_head(c: Canvas) -> Drawing:
    """A skull: a bright ring, brightest across the beam; what it encloses is the figure."""
    c.look(turn=0.1, zoom=(0.8, 1.2), shift=0.06, stretch=0.15, warp=c.uniform(0, 0.02))
    echo = np.float32(c.uniform(0.05, 0.3)) * np.exp(np.float32(c.uniform(0.3, 0.7)) * c.noise(0.25))
    bright = soft(c.noise(c.uniform(0.3, 0.7), 1, 2) - np.float32(c.uniform(0.3, 1.2)), 1)
    echo = echo + bright * np.float32(c.uniform(0.1, 0.6))
    a = c.uniform(0.3, 0.68)
    angle = c.uniform(-0.6, 0.6) if c.chance(0.7) else c.uniform(0, np.pi)
    x, y, b = c.uniform(-0.15, 0.15), c.uniform(-0.15, 0.15), a * c.uniform(0.65, 0.95)
    shape = c.blob(x, y, a, b, angle, c.uniform(0, 0.04))
    if c.chance(0.6):  # water around it
        water = c.blob(x + c.uniform(-0.2, 0.2), y + c.uniform(-0.2, 0.2), a * 1.35, b * 1.35, angle, 0.2)
        paint(echo, c.uniform(0, 0.06), soft(water, 0.1))
    inner = np.float32(c.uniform(0.01, 0.15)) * np.exp(np.float32(c.uniform(0.2, 0.7)) * c.texture(0.05, 0.25))
    paint(echo, inner, soft(shape, 0.03))
    u, v = c.around(x, y, angle)
    if c.chance(0.6):  # the middle line
        line = soft(np.float32(0.015) - np.abs(v + np.float32(0.01) * c.noise(0.2)), 0.03) * (shape > 0.08)
        echo = echo + line * np.float32(c.uniform(0.1, 0.6))
    for _ in range(c.integer(0, 4)):
        part = both(
            c.blob(
                x + c.uniform(-0.3, 0.3) * a * 2,
                y + c.uniform(-0.3, 0.3) * b * 2,
                a * c.uniform(0.1, 0.3),
                b * c.uniform(0.1, 0.3),
                angle,
                0.25,
            ),
            shape - np.float32(0.05),
        )
        paint(echo, c.uniform(0, 0.5), soft(part, 0.05) * np.float32(c.uniform(0.3, 1)))
    width = np.float32(c.uniform(0.015, 0.05))
    ring = soft(width - np.abs(shape - width * np.float32(c.uniform(0.3, 1))), c.uniform(0.02, 0.05))
    turned = np.arctan2(v / np.float32(b), u / np.float32(a)) + np.float32(angle)
    across_beam = np.abs(np.sin(turned))
    weak = c.uniform(0, 0.8)
    strength = (np.float32(weak) + np.float32(1 - weak) * across_beam ** np.float32(c.uniform(0.5, 2))) * (
        np.float32(1) + np.float32(c.uniform(0, 0.4)) * c.noise(0.2)
    )
    echo = echo + ring * np.clip(strength, 0, None) * np.float32(c.uniform(0.5, 1.6))
    if c.chance(0.4):  # nothing comes back from behind the skull
        echo *= 1 - _behind(c, shape, 0.6) * np.float32(c.uniform(0, 0.7))
    return _shown(c, echo, shape, [], sector=0.75)


def chamber(c: Canvas) -> Drawing:
    """A dark room full of fluid in brighter walls: a heart's chamber, a cyst, a vessel, a bladder."""
    c.look(turn=0.4, zoom=(0.85, 1.25), shift=0.1, warp=c.uniform(0, 0.05))
    echo = np.float32(c.uniform(0.1, 0.5)) * np.exp(np.float32(c.uniform(0.2, 0.6)) * c.texture(0.1, 0.5))
    size = c.log_uniform(0.18, 0.5)
    x, y = c.uniform(-0.3, 0.3), c.uniform(-0.4, 0.3)
    shape = c.blob(
        x,
        y,
        size * c.uniform(0.5, 1),
        size * c.uniform(0.8, 1.5),
        c.uniform(-0.6, 0.6),
        c.uniform(0.03, 0.15),
        int(c.rng.choice((2, 4))),
    )
    wall = soft(shape + np.float32(c.uniform(0.04, 0.15)), 0.05)
    paint(
        echo, c.uniform(0.4, 1.0) * (1 + np.float32(0.3) * c.texture(0.05, 0.2)), wall * np.float32(c.uniform(0.2, 1))
    )
    others = []
    for _ in range(c.integer(0, 2)):
        r = size * c.uniform(0.3, 0.7)
        room = c.blob(x + c.sign() * size * 1.4, y + c.uniform(-0.3, 0.6) * size, r, r * 1.2, 0, 0.15)
        room = np.minimum(room, -shape - np.float32(0.03))
        paint(echo, c.uniform(0, 0.08), soft(room, 0.05) * np.float32(c.uniform(0.5, 1)))
        others.append(room)
    paint(echo, c.uniform(0, 0.06), soft(shape, c.log_uniform(2, 6) * c.pixel))
    echo *= 1 + _behind(c, shape) * np.float32(c.uniform(0, 0.8))
    return _shown(c, echo, shape, others, sector=0.5)


def _shown(c: Canvas, echo: Field, shape: Field, others: list[Field], sector: float) -> Drawing:
    """On the screen of the machine: speckle, a scale of grey, a sector, writing."""
    _depth_gain(c, echo)
    image = ultrasound(c, np.clip(echo, 0, 3).astype(np.float32), c.log_uniform(2, 30)).astype(np.float32)
    figure = shape > 0
    if c.chance(sector):
        apex = c.uniform(-2.2, -1.1)
        x, y = c.x - np.float32(c.uniform(-0.1, 0.1)), c.y - np.float32(apex)
        radius = np.sqrt(x * x + y * y)
        near, far = c.uniform(0.1, 0.5) - 1 - apex, c.uniform(0.75, 1.1) - apex
        opening = np.float32(np.tan(c.uniform(0.45, 0.75)))
        seen = np.minimum.reduce([radius - np.float32(near), np.float32(far) - radius, opening * y - np.abs(x)])
        bottom = both(seen, np.ones_like(seen))
        paint(image, 0.0, 1 - soft(bottom, c.pixel * 2))
        figure = figure & (seen > 0) if c.chance(0.5) else figure
    if c.chance(0.3):
        band = np.float32(c.uniform(0.8, 1.0))
        paint(image, 0.0, ((np.abs(c.y) > band) | (np.abs(c.x) > np.float32(c.uniform(0.85, 1.0)))).astype(np.float32))
    if c.chance(0.2):
        writing(c, image)
    return Drawing(photographed(c, image, inverts=0.02), figure, [(each > 0) & ~figure for each in others])
