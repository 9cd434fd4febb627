"""Figures on grounds, of no kind of image in particular."""

from __future__ import annotations

import numpy as np

from .appearance import frame, glints, hairs, illuminate, photographed, vignette
from .canvas import Canvas, Drawing, Field, either, paint, plain, slope, soft


def blobs(c: Canvas) -> Drawing:
    """One or a few blobs, which differ from the ground in colour, texture, rim or shading."""
    c.look(turn=np.pi, zoom=(0.8, 1.25), shift=0.1, warp=c.uniform(0, 0.06))
    grey = c.chance(0.45)
    ground_colour = c.rng.random(3) if c.chance(0.5) else np.full(3, c.uniform(0.05, 0.95)) + c.near((0, 0, 0), 0.08)
    image = plain(ground_colour, c.side)
    texture = c.texture()
    image += _tint(c, 0.09) * texture
    if c.chance(0.35):  # a ground of two kinds
        part = soft(c.noise(c.uniform(0.5, 1.5)) - np.float32(c.uniform(-0.5, 1.2)), c.log_uniform(0.05, 1))
        paint(image, np.clip(ground_colour + c.near((0, 0, 0), 0.12), 0, 1), part)
    for _ in range(c.integer(0, 3) if c.chance(0.6) else 0):
        _distract(c, image)
    count = int(c.rng.choice((1, 2, 3, 5), p=(0.72, 0.16, 0.07, 0.05)))
    largest = 1.0 if count == 1 else 0.45
    parts = [c.random_blob(0.12, largest, 0.55) for _ in range(count)]
    if count == 1 and c.chance(0.15):  # at the border
        parts = [c.random_blob(0.3, 0.9, 1.0)]
    shape = either(*parts)
    _fill(c, image, shape, ground_colour, texture)
    if c.chance(0.4):
        illuminate(c, image, 0.8)
    if c.chance(0.15):
        hairs(c, image, c.uniform(0, 1) * np.ones(3))
    if c.chance(0.12):
        glints(c, image)
    if c.chance(0.2):
        vignette(c, image)
    figure = shape > 0
    others = [part > 0 for part in parts] if count > 1 else []
    if c.chance(0.2):
        seen = frame(c, image) > 0.5
        figure, others = figure & seen, [each & seen for each in others]
    return Drawing(photographed(c, image.mean(axis=0) if grey else image, inverts=0.5 if grey else 0.1), figure, others)


def _tint(c: Canvas, strength: float) -> Field:
    return (np.float32(c.log_uniform(0.01, strength)) * c.near((1, 1, 1), 0.25))[:, None, None]


def _distract(c: Canvas, image: Field) -> None:
    """What is not meant: lines, specks, faint patches, things at the border."""
    kind = c.rng.random()
    if kind < 0.35:
        width = c.log_uniform(0.02, 0.25)
        paint(
            image,
            c.rng.random(3),
            soft(c.curve(width, 1.0), c.log_uniform(0.02, 0.3)) * np.float32(c.uniform(0.1, 0.5)),
        )
    elif kind < 0.6:
        specks = c.noise(c.uniform(0.03, 0.08)) - np.float32(c.uniform(1.8, 2.8))
        paint(image, c.rng.random(3), soft(specks, 0.4) * np.float32(c.uniform(0.2, 0.9)))
    elif kind < 0.8:
        paint(image, c.rng.random(3), soft(c.random_blob(0.1, 0.5, 0.8), c.log_uniform(0.1, 0.5)) * np.float32(0.12))
    else:
        side = c.directed()
        edge = side - np.float32(c.uniform(0.8, 1.2)) + np.float32(0.08) * c.noise(0.5)
        paint(image, c.rng.random(3), soft(edge, c.log_uniform(0.03, 0.5)) * np.float32(c.uniform(0.3, 1)))


def _fill(c: Canvas, image: Field, shape: Field, ground: Field, texture: Field) -> None:
    """Make a shape differ from its ground."""
    inside = soft(shape, c.log_uniform(1, 8) * c.pixel)
    how = c.rng.random()
    if how < 0.88:
        direction = c.rng.standard_normal(3) + c.sign() * c.uniform(0, 2.5)
        colour = ground + direction / np.linalg.norm(direction) * c.log_uniform(0.15, 1.0)
        body = plain(np.clip(colour, -0.1, 1.1), c.side)
        own = texture if c.chance(0.25) else c.texture()
        body += _tint(c, 0.15) * own
        if c.chance(0.3):  # of two colours
            inner = soft(c.noise(c.uniform(0.1, 0.5)) - np.float32(c.uniform(-0.5, 1)), c.log_uniform(0.1, 1))
            paint(body, np.clip(colour + c.near((0, 0, 0), 0.15), 0, 1), inner)
        paint(image, body, inside * np.float32(c.uniform(0.75, 1)))
    else:  # by texture alone
        own = c.texture(0.02, 0.15)
        image += inside * np.float32(c.uniform(0.1, 0.25)) * (own - np.float32(c.uniform(0, 0.5)) * texture)
    if c.chance(0.25):  # a rim
        width = c.log_uniform(0.02, 0.1)
        band = soft(np.float32(width / 2) - np.abs(shape), c.pixel * 2)
        paint(image, c.uniform(0, 1) * np.ones(3), band * np.float32(c.uniform(0.2, 0.9)))
    if c.chance(0.3):  # a bump in light
        height = np.sqrt(np.clip(shape, 0, c.uniform(0.1, 0.5)))
        image += np.float32(c.uniform(0.5, 4)) * slope(height, c.uniform(0, 2 * np.pi)) * inside
    if c.chance(0.15):  # brighter or darker towards the middle
        image += np.float32(c.uniform(-0.8, 0.8)) * np.clip(shape, 0, 0.4)


def bodies(c: Canvas) -> Drawing:
    """A body in air or filling the image, with organs inside, of which one stands out."""
    c.look(turn=0.5, zoom=(0.8, 1.7), shift=0.2, stretch=0.2, warp=c.uniform(0, 0.05))
    air, tissue = c.uniform(0, 0.15), c.uniform(0.25, 0.7)
    image = np.full((c.side, c.side), air, np.float32)
    body = c.blob(0, 0, c.uniform(0.7, 0.95), c.uniform(0.6, 0.9), 0, c.uniform(0, 0.12), int(c.rng.choice((2, 4))))
    inside = soft(body, 2 * c.pixel)
    paint(image, tissue + np.float32(c.log_uniform(0.01, 0.1)) * c.texture(), inside)
    if c.chance(0.6):  # a wall
        paint(image, c.uniform(0.1, 1), inside * soft(np.float32(c.uniform(0.03, 0.15)) - body, c.pixel * 2))
    others = []
    contrast = c.log_uniform(0.12, 0.5)
    for _ in range(c.integer(1, 7)):
        organ = np.minimum(c.random_blob(0.06, 0.3, 0.65), body - np.float32(0.03))
        paint(image, tissue + c.sign() * contrast * c.uniform(0.1, 0.6), soft(organ, c.log_uniform(1, 6) * c.pixel))
        others.append(organ)
    pair = c.chance(0.25)
    x, y, a = c.uniform(0.2, 0.45) if pair else c.uniform(-0.4, 0.4), c.uniform(-0.35, 0.35), c.log_uniform(0.15, 0.55)
    b, angle, rough = a * c.log_uniform(0.6, 1.6), c.uniform(-0.6, 0.6), c.uniform(0.03, 0.25)
    parts = [c.blob(x, y, a * 0.7, b, angle, rough), c.blob(-x, y, a * 0.7, b, -angle, rough)] if pair else []
    parts = parts or [c.blob(x, y, a, b, angle, rough)]
    organ = np.minimum(either(*parts), body - np.float32(0.02))
    colour = tissue + c.sign() * contrast
    paint(
        image,
        colour + np.float32(c.log_uniform(0.01, 0.1)) * c.texture(),
        soft(organ, c.log_uniform(1, 5) * c.pixel),
    )
    if c.chance(0.2):
        rim = soft(np.float32(c.uniform(0.02, 0.05)) - np.abs(organ), c.pixel)
        paint(image, c.uniform(0, 1), rim * np.float32(0.7))
    if c.chance(0.3):
        illuminate(c, image, 0.6)
    figure = organ > 0
    alternatives = [(each > 0) & ~figure for each in others]
    alternatives += [figure & (part > 0) for part in parts] if pair else []
    return Drawing(photographed(c, image, inverts=0.3), figure, alternatives)


def many(c: Canvas) -> Drawing:
    """Many things of one kind: all of them are the figure, a prompt asks for one."""
    c.look(turn=np.pi, shift=0)
    grey = c.chance(0.5)
    ground = c.rng.random(3)
    image = plain(ground, c.side)
    image += _tint(c, 0.06) * c.texture()
    cells = c.cells(c.log_uniform(2.5, 13), c.uniform(0.05, 0.3), c.uniform(0, 0.08))
    shape = cells.discs(c.uniform(0.26, 0.5), c.uniform(0, 0.4), c.uniform(0, 0.4))
    if c.chance(0.5):
        shape = np.where(cells.second < c.uniform(0.4, 1), shape, np.float32(-0.2) * cells.size)
    shape = shape + np.float32(c.uniform(0, 0.1)) * cells.size * c.noise(float(cells.size) * 0.3)
    direction = c.rng.standard_normal(3) + c.sign() * c.uniform(0, 3)
    colour = ground + direction / np.linalg.norm(direction) * c.log_uniform(0.15, 0.9)
    body = plain(colour, c.side)
    body += np.float32(c.uniform(0, 0.15)) * (cells.first - 0.5)
    body += _tint(c, 0.12) * c.texture(0.02, 0.2)
    inside = soft(shape, c.log_uniform(1, 3) * c.pixel)
    paint(image, np.clip(body, -0.1, 1.1), inside)
    if c.chance(0.5):  # a middle or a rim of another tone
        middle = soft(shape - np.float32(c.uniform(0.1, 0.3)) * cells.size, c.pixel * 2)
        towards = ground if c.chance(0.6) else c.rng.random(3)
        paint(image, towards, (middle if c.chance(0.6) else inside - middle) * np.float32(c.uniform(0.2, 0.9)))
    if c.chance(0.3):
        illuminate(c, image, 0.6)
    return Drawing(photographed(c, image.mean(axis=0) if grey else image, inverts=0.5 if grey else 0.1), shape > 0)
