"""Through a microscope: blood, cells, stained tissue; and the net of vessels in the eye that OCT angiography shows."""

from __future__ import annotations

import numpy as np

from .appearance import illuminate, photographed
from .canvas import Canvas, Cells, Drawing, Field, both, either, paint, plain, soft

_LIGHT = ((0.9, 0.9, 0.88), (0.85, 0.85, 0.7), (0.93, 0.9, 0.93), (0.8, 0.82, 0.78), (0.97, 0.97, 0.98))
_RED_CELL = (
    (0.75, 0.6, 0.55),
    (0.6, 0.5, 0.55),
    (0.8, 0.6, 0.65),
    (0.55, 0.45, 0.6),
    (0.6, 0.6, 0.6),
    (0.45, 0.4, 0.65),
)


def _red_cells(c: Canvas, image: Field, ground: Field, count: float, share: float) -> tuple[Field, Cells]:
    """Red cells, paler in the middle, on an image; their shape."""
    cells = c.cells(count, c.uniform(0.1, 0.32), c.uniform(0, 0.05))
    shape = cells.discs(c.uniform(0.34, 0.52), c.uniform(0, 0.2), c.uniform(0, 0.25))
    shape = np.where(cells.second < share, shape, np.float32(-0.2) * cells.size)
    tone = c.near(_RED_CELL[c.integer(0, len(_RED_CELL) - 1)], 0.05)
    body = plain(tone, c.side)
    body += np.float32(c.uniform(0, 0.1)) * (cells.first - 0.5)
    body += np.float32(0.02) * c.texture(0.02, 0.2)
    paint(image, body, soft(shape, c.uniform(1, 2.5) * c.pixel))
    middle = soft(shape - np.float32(c.uniform(0.1, 0.3)) * cells.size, float(cells.size) * c.uniform(0.08, 0.3))
    paint(image, ground, middle * np.float32(c.uniform(0, 0.9)))
    if c.chance(0.3):  # a dark outline
        paint(image, tone * 0.6, soft(np.float32(0.05) * cells.size - np.abs(shape), c.pixel * 1.5) * np.float32(0.6))
    return shape, cells


def _slide(c: Canvas) -> tuple[Field, Field]:
    ground = c.near(_LIGHT[c.integer(0, len(_LIGHT) - 1)], 0.03)
    image = plain(ground, c.side)
    image += (np.float32(c.log_uniform(0.005, 0.04)) * c.near((1, 1, 1), 0.2))[:, None, None] * c.texture(0.02, 0.2)
    return image, ground


def white_cell(c: Canvas) -> Drawing:
    """A white cell, with its nucleus and plasma, among red ones."""
    c.look(turn=np.pi, shift=0.0)
    image, ground = _slide(c)
    red, _ = _red_cells(c, image, ground, c.log_uniform(4, 14), c.uniform(0.3, 1)) if c.chance(0.9) else (None, None)
    size = c.log_uniform(0.12, 0.4)
    parts = []
    for _ in range(1 if c.chance(0.88) else 2):
        x, y = c.uniform(-0.65, 0.65), c.uniform(-0.65, 0.65)
        cell = c.blob(x, y, size * c.uniform(0.9, 1.15), size, c.uniform(0, 3), c.uniform(0.02, 0.1))
        plasma = c.near(
            ((0.75, 0.65, 0.8), (0.7, 0.75, 0.85), (0.85, 0.7, 0.75), (0.6, 0.45, 0.7))[c.integer(0, 3)], 0.05
        )
        halo = soft(cell + np.float32(0.05), 0.05) * np.float32(c.uniform(0, 0.8))
        paint(image, ground, halo)
        body = plain(plasma, c.side) + np.float32(c.uniform(0.01, 0.08)) * c.noise(0.04)
        paint(image, body, soft(cell, 1.5 * c.pixel) * np.float32(c.uniform(0.4, 1)))
        nucleus = c.blob(x, y, size * c.uniform(0.55, 1.0), size * c.uniform(0.55, 0.95), c.uniform(0, 3), 0.15)
        if c.chance(0.5):  # of lobes
            lobes = []
            for _ in range(c.integer(2, 5)):
                turn, far, r = c.uniform(0, 2 * np.pi), size * c.uniform(0.2, 0.55), size * c.uniform(0.22, 0.45)
                lobes.append(
                    c.blob(x + far * np.cos(turn), y + far * np.sin(turn), r, r * c.uniform(0.8, 1.3), turn, 0.15)
                )
            nucleus = either(*lobes)
        nucleus = both(nucleus, cell - np.float32(0.005))
        stain = c.near(((0.4, 0.2, 0.55), (0.3, 0.2, 0.5), (0.6, 0.35, 0.65), (0.5, 0.15, 0.5))[c.integer(0, 3)], 0.06)
        dark = plain(stain, c.side) + np.float32(c.uniform(0.02, 0.12)) * c.texture(0.02, 0.08)
        paint(image, dark, soft(nucleus, 1.5 * c.pixel))
        parts.append(cell)
    shape = either(*parts)
    specks = c.noise(0.04) - np.float32(3)  # platelets
    paint(image, (0.5, 0.35, 0.55), soft(specks, 0.5) * (shape < 0) * np.float32(0.7))
    if c.chance(0.4):
        illuminate(c, image, 0.3)
    figure = shape > 0
    others = [figure & (part > 0) for part in parts] if len(parts) > 1 else []
    if red is not None:
        others.append((red > 0) & ~figure)
    return Drawing(photographed(c, image), figure, others)


def blood_smear(c: Canvas) -> Drawing:
    """All cells of a smear."""
    c.look(turn=np.pi, shift=0.0)
    image, ground = _slide(c)
    if c.chance(0.4):
        image = np.clip(image + np.float32(0.1), 0, 1)
    shape, cells = _red_cells(c, image, ground, c.log_uniform(5, 18), c.uniform(0.3, 1))
    if c.chance(0.4):  # another layer of cells over the first
        more, _ = _red_cells(c, image, ground, c.log_uniform(5, 14), c.uniform(0.1, 0.4))
        shape = either(shape, more)
    if c.chance(0.3):  # parasites and platelets
        paint(image, c.near((0.35, 0.2, 0.5), 0.05), soft(c.noise(0.03) - np.float32(2.4), 0.4))
    if c.chance(0.4):
        illuminate(c, image, 0.3)
    one = (np.abs(cells.first - cells.first[c.side // 2, c.side // 2]) < 1e-6) & (shape > 0)
    return Drawing(photographed(c, image), shape > 0, [one])


def fluorescence(c: Canvas) -> Drawing:
    """Bright nuclei or cells on a dark ground."""
    c.look(turn=np.pi, shift=0.0)
    image = np.full((c.side, c.side), c.uniform(0.0, 0.2), np.float32)
    image += np.float32(c.uniform(0, 0.06)) * c.noise(0.5)
    cells = c.cells(c.log_uniform(2.5, 14), c.uniform(0.1, 0.3), c.uniform(0, 0.08))
    shape = cells.discs(c.uniform(0.28, 0.48), c.uniform(0, 0.4), c.uniform(0, 0.4))
    shape = np.where(cells.second < c.uniform(0.3, 1), shape, np.float32(-0.2) * cells.size)
    shape = shape + np.float32(c.uniform(0, 0.08)) * cells.size * c.noise(float(cells.size) * 0.3)
    tone = c.uniform(0.25, 0.9) * (1 + np.float32(c.uniform(0, 0.6)) * (cells.first - 0.5))
    paint(
        image,
        tone * (1 + np.float32(c.uniform(0, 0.25)) * c.texture(0.02, 0.15)),
        soft(shape, c.log_uniform(1.5, 5) * c.pixel),
    )
    one = (np.abs(cells.first - cells.first[c.side // 2, c.side // 2]) < 1e-6) & (shape > 0)
    if c.chance(0.3):
        image = np.stack([image * np.float32(each) for each in c.rng.random(3)])
    return Drawing(photographed(c, image, inverts=0.15), shape > 0, [one])


def histology(c: Canvas) -> Drawing:
    """Glands in stained tissue: rings of dark nuclei around pale mucus or a white lumen; or a whole tumour."""
    c.look(turn=np.pi, shift=0.0, zoom=(0.9, 1.2))
    pink = c.near(((0.85, 0.6, 0.75), (0.8, 0.5, 0.7), (0.7, 0.55, 0.78), (0.9, 0.7, 0.8))[c.integer(0, 3)], 0.05)
    purple = c.near(((0.4, 0.25, 0.55), (0.5, 0.3, 0.65), (0.35, 0.3, 0.6))[c.integer(0, 2)], 0.05)
    image = plain(pink, c.side)
    fibres = c.noise(c.uniform(0.06, 0.15), c.integer(1, 3), c.integer(1, 3))
    image += (np.float32(c.uniform(0.02, 0.1)) * c.near((1, 1, 1), 0.2))[:, None, None] * fibres
    stroma = soft(c.noise(c.uniform(0.02, 0.045)) - np.float32(c.uniform(0.5, 1.5)), 0.5)
    paint(image, purple, stroma * np.float32(c.uniform(0.4, 1)))
    white = c.near((0.93, 0.9, 0.94), 0.03)
    if c.chance(0.35):
        paint(image, white, soft((c.noise(0.25) - np.float32(c.uniform(1.0, 1.8))) * np.float32(0.2), 0.03))
    others = []
    if c.chance(0.72):
        cells = c.cells(c.log_uniform(1.4, 5), c.uniform(0.05, 0.25), c.uniform(0.02, 0.12))
        shape = cells.discs(c.uniform(0.38, 0.52), c.uniform(0, 0.25), c.uniform(0, 0.5))
        shape = np.where(cells.second < c.uniform(0.6, 1), shape, np.float32(-0.2) * cells.size)
        shape = shape + np.float32(c.uniform(0.02, 0.1)) * cells.size * c.noise(float(cells.size) * 0.4)
        size = float(cells.size)
        others.append((np.abs(cells.first - cells.first[c.side // 2, c.side // 2]) < 1e-6) & (shape > 0))
    else:  # sheets of tumour
        shape = (c.noise(c.uniform(0.35, 1.0)) - np.float32(c.uniform(-0.7, 0.5))) * np.float32(0.3)
        shape = shape + np.float32(0.03) * c.noise(0.1)
        size = c.uniform(0.3, 0.8)
    inside = soft(shape, 2 * c.pixel)
    mucus = c.near(white, 0.05) * c.uniform(0.75, 1) if c.chance(0.5) else pink * c.near((0.85, 0.75, 0.95), 0.05)
    paint(image, np.clip(mucus, 0, 1), inside * np.float32(c.uniform(0.5, 1)))
    # Nuclei stand in the ring along the outline, one beside another.
    ring = soft(np.float32(size * c.uniform(0.1, 0.4)) - np.abs(shape - np.float32(size * 0.12)), 0.05) * inside
    nuclei = soft(c.noise(c.uniform(0.02, 0.05)) + np.float32(c.uniform(-0.3, 1.0)), 0.6)
    paint(image, purple, ring * nuclei * np.float32(c.uniform(0.6, 1)))
    if c.chance(0.3):  # crowded: nuclei everywhere in it
        paint(image, purple, inside * soft(c.noise(0.04), 0.6) * np.float32(c.uniform(0.3, 0.9)))
    walls = np.float32(0.15) - np.abs(c.noise(c.uniform(0.05, 0.1)))
    paint(image, purple, inside * soft(walls, 0.2) * np.float32(c.uniform(0, 0.5)))
    if c.chance(0.6):
        lumen = soft(shape - np.float32(size * c.uniform(0.25, 0.42)), c.uniform(0.02, 0.08))
        paint(image, white, lumen * np.float32(c.uniform(0.3, 1)))
    if c.chance(0.3):
        gap = soft(np.float32(0.02) - np.abs(shape + np.float32(0.02)), 0.02)
        paint(image, white, gap * np.float32(c.uniform(0.2, 0.8)))
    return Drawing(photographed(c, image), shape > 0, others)


def angiography(c: Canvas) -> Drawing:
    """A net of bright vessels with a dark zone in it."""
    c.look(turn=np.pi, zoom=(0.9, 1.1), shift=0.05)
    fine = c.uniform(0.04, 0.09)
    net = soft(np.float32(c.uniform(0.2, 0.5)) - np.abs(c.noise(fine)), 0.3) * np.float32(c.uniform(0.5, 1))
    net = np.maximum(net, soft(np.float32(0.25) - np.abs(c.noise(fine)), 0.3) * np.float32(c.uniform(0.3, 1)))
    image = (
        np.float32(c.uniform(0.05, 0.3))
        + net * np.float32(c.uniform(0.2, 0.6))
        + np.float32(c.uniform(0, 0.15)) * c.noise(0.03)
    )
    image *= 1 + np.float32(c.uniform(0, 0.25)) * c.noise(0.5)
    size = c.log_uniform(0.12, 0.45)
    shape = c.blob(
        c.uniform(-0.2, 0.2),
        c.uniform(-0.2, 0.2),
        size * c.uniform(0.8, 1.2),
        size,
        c.uniform(0, 3),
        c.uniform(0.05, 0.25),
    )
    depth = soft(shape, c.log_uniform(2, 10) * c.pixel)
    for _ in range(c.integer(0, 10)):  # larger vessels, none of which crosses it
        width = c.uniform(0.5, 1.8) * c.pixel
        vessel = c.curve(width, 0.8) + np.float32(0.01) * c.noise(0.15)
        paint(
            image,
            c.uniform(0.6, 1.0),
            soft(vessel, c.pixel) * soft(-shape - np.float32(0.05), 0.1) * np.float32(c.uniform(0.4, 1)),
        )
    paint(image, c.uniform(0.0, 0.12) + np.float32(0.02) * c.noise(0.03), depth * np.float32(c.uniform(0.75, 1)))
    return Drawing(photographed(c, image.astype(np.float32), inverts=0.05), shape > 0)
