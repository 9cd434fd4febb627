"""Slices of magnetic resonance: heads, hearts, pelves and spines.

As for CT, tissues have intensities of their own in every scene; a slow field of the coils lies over all of them.
"""

from __future__ import annotations

import numpy as np

from .appearance import illuminate, photographed
from .canvas import Canvas, Drawing, Field, both, either, paint, soft


def _finished(c: Canvas, image: Field, figure: Field, others: list[Field], inverts: float = 0.05) -> Drawing:
    """With the coils' field and Rician noise."""
    if c.chance(0.7):
        image *= np.exp(np.float32(c.uniform(0, 0.35)) * c.noise(1.2))
    if c.chance(0.3):
        illuminate(c, image, 0.8)
    noise = np.float32(c.log_uniform(0.005, 0.06))
    image = np.sqrt((image + noise * c.grain()) ** 2 + (noise * c.grain()) ** 2)
    if c.chance(0.5):
        image = image * np.float32(c.uniform(0.4, 1.1))
    mask = figure > 0
    return Drawing(photographed(c, image, inverts=inverts), mask, [(each > 0) & ~mask for each in others])


def brain_tumour(c: Canvas) -> Drawing:
    """A tumour in a brain, seen from above or from the side."""
    c.look(turn=0.3, zoom=(0.8, 1.2), shift=0.08, stretch=0.12, warp=c.uniform(0, 0.03))
    image = np.full((c.side, c.side), c.uniform(0, 0.05), np.float32)
    sideways = c.chance(0.5)
    scalp, brain_tone = c.uniform(0.4, 1.0), c.uniform(0.25, 0.55)
    if sideways:
        head = c.blob(0, -0.2, c.uniform(0.75, 0.88), c.uniform(0.65, 0.75), 0, 0.05)
        face = c.blob(c.uniform(0.2, 0.45), 0.35, c.uniform(0.35, 0.5), c.uniform(0.5, 0.65), 0.2, 0.12)
        neck = c.ellipse(c.uniform(-0.2, 0.0), 0.8, c.uniform(0.3, 0.45), 0.6, 0, 4)
        whole = either(head, face, neck)
        brain = c.blob(0, -0.25, c.uniform(0.62, 0.72), c.uniform(0.45, 0.55), c.uniform(-0.1, 0.15), 0.06)
    else:
        whole = c.blob(0, 0, c.uniform(0.62, 0.78), c.uniform(0.75, 0.9), 0, 0.03)
        brain = whole - np.float32(c.uniform(0.07, 0.16))
    below = np.float32(scalp * c.uniform(0.2, 0.6)) * (1 + np.float32(0.6) * c.texture(0.04, 0.3))
    paint(image, below if sideways else c.uniform(0.03, 0.15), soft(whole, 2 * c.pixel))
    rim = np.float32(c.uniform(0.02, 0.05)) - np.abs(whole - np.float32(0.03))
    paint(image, scalp, soft(rim, 2 * c.pixel) * np.float32(c.uniform(0.5, 1)))
    paint(image, c.uniform(0.02, 0.12), soft(brain + np.float32(0.04), 2 * c.pixel))
    tissue = brain_tone * (1 + np.float32(c.uniform(0.03, 0.15)) * c.texture(0.04, 0.15))
    matter = c.noise(c.uniform(0.08, 0.16)) + soft(np.float32(0.12) - brain, 0.1)
    tissue = tissue + np.float32(c.uniform(-0.12, 0.12)) * soft(matter - np.float32(0.5), 0.8)
    paint(image, tissue, soft(brain, 2 * c.pixel))
    sulci = both(np.float32(0.02) - np.abs(c.noise(0.12)) * np.float32(0.1), np.float32(0.12) - brain, brain)
    fluid = c.uniform(0.02, 0.15) if c.chance(0.7) else c.uniform(0.6, 1)
    paint(image, fluid, soft(sulci, 2 * c.pixel) * np.float32(c.uniform(0.2, 0.8)))
    others: list[Field] = []
    if c.chance(0.7):  # ventricles
        y = c.uniform(-0.3, 0.0)
        for side in (-1, 1):
            spread = side * c.uniform(0.06, 0.12)
            ventricle = c.blob(
                spread, y, c.uniform(0.03, 0.09), c.uniform(0.12, 0.28), side * c.uniform(-0.4, 0.1), 0.25
            )
            ventricle = both(ventricle, brain - np.float32(0.05))
            paint(image, fluid, soft(ventricle, 2 * c.pixel))
            others.append(ventricle)
    if not sideways and c.chance(0.3):  # a slice at the skull's base: eyes, nose, bones
        paint(image, below, soft(both(-c.v - np.float32(c.uniform(0.1, 0.4)), whole), 0.1))
        for side in (-1, 1):
            eye = c.ellipse(side * c.uniform(0.28, 0.35), c.uniform(-0.6, -0.5), 0.13, 0.13)
            paint(image, c.uniform(0.05, 0.9), soft(eye, 2 * c.pixel))
            others.append(eye)
    size = c.log_uniform(0.08, 0.32)
    x, y = c.uniform(-0.45, 0.45), c.uniform(-0.5, 0.15) if sideways else c.uniform(-0.5, 0.5)
    tumour = c.blob(x, y, size, size * c.log_uniform(0.65, 1.5), c.uniform(0, 3), c.uniform(0.05, 0.3))
    if c.chance(0.15):
        tumour = either(tumour, c.blob(c.uniform(-0.4, 0.4), c.uniform(-0.4, 0.2), size * 0.7, size * 0.7, 0, 0.2))
    tumour = both(tumour, brain - np.float32(0.01))
    bright = brain_tone + c.uniform(0.12, 0.5)
    tone = bright if c.chance(0.7) else brain_tone * c.uniform(0.4, 0.8)
    if c.chance(0.3):  # oedema around it
        oedema = both(tumour + np.float32(0.1) + np.float32(0.05) * c.noise(0.15), brain)
        paint(image, brain_tone * c.uniform(0.6, 1.4), soft(oedema, 0.08) * np.float32(c.uniform(0.3, 0.8)))
    mass = tone + np.float32(c.log_uniform(0.02, 0.15)) * c.texture(0.03, 0.15)
    paint(image, mass, soft(tumour, c.log_uniform(1, 4) * c.pixel) * np.float32(c.uniform(0.6, 1)))
    if c.chance(0.35):  # it takes up contrast at its rim
        rim = np.float32(c.uniform(0.015, 0.04)) - np.abs(tumour - np.float32(0.02))
        paint(image, bright + 0.2, soft(rim, c.pixel) * np.float32(c.uniform(0.4, 1)))
        paint(image, brain_tone * c.uniform(0.3, 0.9), soft(tumour - np.float32(0.05), 2 * c.pixel))
    return _finished(c, image, tumour, others)


def heart(c: Canvas) -> Drawing:
    """Chambers full of bright blood and great vessels, in a chest."""
    c.look(turn=0.5, zoom=(0.8, 1.4), shift=0.1, stretch=0.15, warp=c.uniform(0.01, 0.06))
    tissue, lung, fat = c.uniform(0.25, 0.45), c.uniform(0.02, 0.15), c.uniform(0.4, 0.9)
    image = np.full((c.side, c.side), tissue, np.float32)
    image += np.float32(0.06) * c.texture(0.05, 0.4)
    for _ in range(c.integer(1, 3)):  # lungs
        paint(
            image,
            lung + np.float32(0.03) * c.texture(0.03, 0.1),
            soft(
                c.blob(
                    c.uniform(-0.8, 0.8),
                    c.uniform(-0.6, 0.6),
                    c.uniform(0.3, 0.6),
                    c.uniform(0.4, 0.8),
                    c.uniform(0, 3),
                    0.15,
                ),
                3 * c.pixel,
            ),
        )
    wall = c.ellipse(
        c.uniform(-0.2, 0.2), c.uniform(-0.2, 0.2), c.uniform(0.95, 1.3), c.uniform(0.85, 1.1)
    ) + np.float32(0.03) * c.noise(0.4)
    paint(image, fat, soft(-wall, 3 * c.pixel))
    if c.chance(0.5):
        paint(image, 0.03, soft(-wall - np.float32(c.uniform(0.1, 0.25)), 2 * c.pixel))
    liver = c.blob(c.uniform(-0.6, 0.6), c.uniform(0.7, 0.9), 0.6, 0.3, 0, 0.15)
    paint(image, c.uniform(0.2, 0.5), soft(liver, 3 * c.pixel) * np.float32(c.chance(0.5)))
    blood, muscle = c.uniform(0.65, 1.0), c.uniform(0.12, 0.4)
    x, y, size = c.uniform(-0.2, 0.2), c.uniform(-0.1, 0.25), c.uniform(0.32, 0.62)
    turn = c.uniform(0, 2 * np.pi)
    mass = c.blob(x, y, size * c.uniform(1.0, 1.3), size, c.uniform(0, 3), 0.12)
    paint(image, muscle, soft(mass, 3 * c.pixel))
    chambers = []
    for index in range(c.integer(1, 4)):
        way = turn + index * c.uniform(1.4, 2.2)
        far = size * (c.uniform(0.4, 0.6) if index or c.chance(0.5) else 0.1)
        r = size * c.uniform(0.35, 0.65)
        chambers.append(
            c.blob(
                x + far * np.cos(way), y + far * np.sin(way), r, r * c.log_uniform(0.7, 1.5), way, c.uniform(0.08, 0.25)
            )
        )
    septum = np.abs(c.noise(0.7)) * np.float32(0.5) - np.float32(c.uniform(0.0, 0.05))
    vessels = []
    for _ in range(c.integer(0, 3)):
        if c.chance(0.4):  # along the slice
            arch = np.float32(c.uniform(0.05, 0.1)) - np.abs(
                c.ellipse(x + c.uniform(-0.3, 0.3), y - c.uniform(0.1, 0.4), c.uniform(0.3, 0.5), c.uniform(0.3, 0.6))
            )
            vessels.append(
                both(
                    arch,
                    c.u * np.float32(np.cos(turn)) + c.v * np.float32(np.sin(turn)) + np.float32(c.uniform(0, 0.3)),
                )
            )
        else:
            r = c.uniform(0.07, 0.17)
            vessels.append(
                c.blob(x + c.uniform(-0.45, 0.45), y - c.uniform(0.0, 0.6), r, r * c.uniform(0.8, 1.2), 0, 0.08)
            )
    pool = both(either(*chambers), septum) if len(chambers) > 1 else chambers[0]
    pool = either(pool, *vessels) if vessels else pool
    paint(
        image,
        blood + np.float32(c.log_uniform(0.02, 0.1)) * c.texture(0.04, 0.3),
        soft(pool, c.log_uniform(1.5, 4) * c.pixel),
    )
    papillary = soft(both(pool - np.float32(0.03), (c.noise(0.06) - np.float32(1.7)) * np.float32(0.1)), c.pixel)
    paint(image, muscle, papillary * np.float32(c.uniform(0, 0.8)))
    spots = soft(c.noise(0.05) - np.float32(2.0), 0.4) * (pool < -0.05)  # small vessels, which are not meant
    paint(image, blood * 0.8, spots * np.float32(c.uniform(0, 0.8)))
    figure, others = pool, [*chambers, *vessels]
    drawing = _finished(c, image, figure, [], inverts=0.05)
    return drawing._replace(others=[(each > 0) & drawing.figure for each in others])


def _pelvis(c: Canvas, body: Field) -> Field:
    """Fat, muscles, hip bones and the heads of both femora; the image."""
    fat, muscle, air = c.uniform(0.35, 0.9), c.uniform(0.12, 0.35), c.uniform(0, 0.04)
    image = np.full((c.side, c.side), air, np.float32)
    paint(image, fat + np.float32(0.05) * c.texture(0.05, 0.4), soft(body, 2 * c.pixel))
    inner = body - np.float32(c.uniform(0.08, 0.2))
    muscles = both(inner, (c.noise(c.uniform(0.15, 0.3)) + np.float32(c.uniform(0.3, 1.2))) * np.float32(0.08))
    paint(image, muscle * (1 + np.float32(0.15) * c.texture(0.02, 0.1)), soft(muscles, 3 * c.pixel))
    apart, low = c.uniform(0.55, 0.75), c.uniform(-0.15, 0.1)
    bone, cortex = c.uniform(0.25, 0.8), c.uniform(0.02, 0.12)
    for side in (-1, 1):
        r = c.uniform(0.14, 0.22)
        head = c.blob(side * apart, low, r, r, 0, 0.05)
        paint(image, cortex, soft(head + np.float32(0.03), c.pixel * 2) * np.float32(c.uniform(0.5, 1)))
        paint(image, bone, soft(head - np.float32(0.01), c.pixel * 2))
        socket = both(
            np.float32(0.05) - np.abs(head + np.float32(0.08)),
            np.float32(side) * (np.float32(side * apart) - c.u) + np.float32(0.05),
        )
        paint(image, bone, soft(socket, c.pixel * 3) * np.float32(c.uniform(0.3, 1)))
    return image


def bladder(c: Canvas) -> Drawing:
    """The bladder with its wall, in the middle of a pelvis."""
    c.look(turn=0.1, zoom=(0.85, 1.3), shift=0.08, stretch=0.15, warp=c.uniform(0.01, 0.04))
    body = c.blob(0, 0, c.uniform(0.88, 1.05), c.uniform(0.62, 0.85), 0, 0.05, int(c.rng.choice((2, 4))))
    image = _pelvis(c, body)
    size = c.uniform(0.18, 0.36)
    outer = c.blob(
        c.uniform(-0.06, 0.06),
        c.uniform(-0.25, 0.0),
        size * c.uniform(0.9, 1.3),
        size * c.uniform(0.65, 1.0),
        c.uniform(-0.2, 0.2),
        c.uniform(0.03, 0.15),
        int(c.rng.choice((2, 2, 4))),
    )
    wall = np.float32(c.uniform(0.015, 0.06))
    wall_tone = c.uniform(0.08, 0.4)
    urine = c.uniform(0.5, 1.0) if c.chance(0.6) else c.uniform(0.1, 0.5)
    below = c.blob(0, c.uniform(0.2, 0.4), c.uniform(0.12, 0.22), c.uniform(0.1, 0.18), 0, 0.12)  # rectum, womb, glands
    paint(image, c.uniform(0.02, 0.5) + np.float32(0.06) * c.texture(0.03, 0.1), soft(below, 2 * c.pixel))
    around = soft(outer + np.float32(0.05), 0.06) * np.float32(c.uniform(0, 0.7))
    paint(image, c.uniform(0.3, 0.9), around)
    paint(image, wall_tone, soft(outer, 2 * c.pixel))
    inner = outer - wall
    layers = urine + np.float32(c.uniform(-0.15, 0.15)) * c.v if c.chance(0.4) else np.float32(urine)
    paint(image, layers + np.float32(0.02) * c.texture(0.03, 0.2), soft(inner, 2 * c.pixel))
    if c.chance(0.25):  # a tumour on its wall
        turn = c.uniform(0, 2 * np.pi)
        mass = both(c.blob(size * 0.8 * np.cos(turn), -0.12 + size * 0.7 * np.sin(turn), 0.09, 0.08, 0, 0.2), outer)
        paint(image, c.uniform(0.2, 0.6), soft(mass, 2 * c.pixel))
    return _finished(c, image, outer, [below])


def prostate(c: Canvas) -> Drawing:
    """The prostate between bladder and rectum, in a pelvis that is seen from near."""
    c.look(turn=0.08, zoom=(1.1, 1.7), shift=0.08, stretch=0.12, warp=c.uniform(0.01, 0.04))
    body = c.blob(0, 0, c.uniform(0.9, 1.1), c.uniform(0.7, 0.9), 0, 0.05, 4)
    image = _pelvis(c, body)
    muscle = c.uniform(0.1, 0.3)
    size = c.uniform(0.13, 0.23)
    y = c.uniform(-0.08, 0.08)
    for side in (-1, 1):  # the muscles beside it
        sling = c.blob(
            side * (size + c.uniform(0.08, 0.18)),
            y + 0.05,
            c.uniform(0.05, 0.1),
            c.uniform(0.2, 0.35),
            side * c.uniform(-0.3, 0.3),
            0.15,
        )
        paint(image, muscle, soft(sling, 3 * c.pixel))
    rectum = c.blob(
        c.uniform(-0.04, 0.04),
        y + size * 0.8 + c.uniform(0.1, 0.2),
        c.uniform(0.1, 0.22),
        c.uniform(0.08, 0.18),
        0,
        0.15,
    )
    paint(image, c.uniform(0.02, 0.5) + np.float32(0.08) * c.texture(0.03, 0.1), soft(rectum, 2 * c.pixel))
    others = [rectum]
    if c.chance(0.5):  # some of the bladder above
        bladder_part = c.blob(
            0, y - size * 0.9 - c.uniform(0.05, 0.15), c.uniform(0.15, 0.3), c.uniform(0.06, 0.15), 0, 0.1
        )
        paint(image, muscle, soft(bladder_part + np.float32(0.03), 2 * c.pixel))
        paint(image, c.uniform(0.6, 1.0) if c.chance(0.7) else c.uniform(0.1, 0.4), soft(bladder_part, 2 * c.pixel))
        others.append(bladder_part)
    shape = c.blob(
        c.uniform(-0.03, 0.03), y, size * c.uniform(1.0, 1.3), size * c.uniform(0.8, 1.1), 0, c.uniform(0.03, 0.1)
    )
    tone = c.uniform(0.25, 0.6)
    paint(
        image,
        c.uniform(0.05, 0.9),
        soft(np.float32(0.03) - np.abs(shape + np.float32(0.03)), 0.03) * np.float32(c.uniform(0, 0.7)),
    )
    gland = tone * (1 + np.float32(c.uniform(0.05, 0.3)) * c.texture(0.03, 0.12))
    paint(image, gland, soft(shape, c.uniform(1.5, 4) * c.pixel))
    central = both(c.blob(0, y - size * 0.15, size * 0.75, size * 0.6, 0, 0.15), shape - np.float32(0.01))
    paint(
        image,
        tone * c.uniform(0.5, 1.2) + np.float32(0.1) * c.texture(0.03, 0.1),
        soft(central, 2 * c.pixel) * np.float32(c.uniform(0.2, 0.9)),
    )
    return _finished(c, image, shape, others)


def spine(c: Canvas) -> Drawing:
    """Vertebrae from the side, and what stands out behind them."""
    c.look(turn=0.15, zoom=(0.85, 1.3), shift=0.12, stretch=0.15, warp=c.uniform(0, 0.02))
    image = np.full((c.side, c.side), c.uniform(0.15, 0.4), np.float32)
    image += np.float32(c.uniform(0.05, 0.15)) * c.texture(0.05, 0.5)
    for _ in range(c.integer(0, 4)):  # what lies in front
        paint(
            image,
            c.uniform(0, 1),
            soft(
                c.blob(c.uniform(-1, -0.4), c.uniform(-1, 1), c.uniform(0.1, 0.25), c.uniform(0.1, 0.4), 0, 0.25), 0.05
            ),
        )
    bend, lean = np.float32(c.uniform(-0.2, 0.2)), np.float32(c.uniform(-0.2, 0.2))
    across = c.u - bend * (c.v * c.v - np.float32(0.3)) - lean * c.v + np.float32(c.uniform(0.0, 0.15))
    tall, wide = c.uniform(0.22, 0.36), c.uniform(0.12, 0.19)
    along = c.v / np.float32(tall) + np.float32(c.uniform(0, 1)) + np.float32(c.uniform(-0.3, 0.3)) * across
    number = np.floor(along)
    inside_cell = along - number - np.float32(0.5)
    tone, disc, fluid = c.uniform(0.3, 0.75), c.uniform(0.05, 0.8), c.uniform(0.0, 1.0)
    muscle, fat = c.uniform(0.15, 0.4), c.uniform(0.6, 1.0)
    paint(image, muscle * (1 + np.float32(0.3) * c.texture(0.03, 0.2)), soft(across - np.float32(wide * 1.2), 0.05))
    behind = across - np.float32(c.uniform(0.6, 0.8)) + np.float32(0.03) * c.noise(0.5)
    paint(image, fat, soft(behind, 0.05))
    paint(image, 0.02, soft(behind - np.float32(c.uniform(0.1, 0.35)), 0.03))
    column = np.float32(wide) - np.abs(across)
    paint(image, disc, soft(column, 2 * c.pixel))
    body = both(
        np.float32(wide) * (1 - np.float32(0.12) * (1 - (inside_cell * 2) ** 2)) - np.abs(across),
        (np.float32(c.uniform(0.34, 0.42)) - np.abs(inside_cell)) * np.float32(tall),
    )
    body = body + np.float32(0.006) * c.noise(0.08)
    paint(image, c.uniform(0.02, 0.2), soft(body + np.float32(0.02), 2 * c.pixel) * np.float32(c.uniform(0.3, 1)))
    paint(image, tone * (1 + np.float32(0.1) * c.texture(0.02, 0.1)), soft(body, 2 * c.pixel))
    canal = np.float32(c.uniform(0.05, 0.08)) - np.abs(across - np.float32(wide + c.uniform(0.08, 0.11)))
    paint(image, fluid, soft(canal, 2 * c.pixel))
    cord = canal - np.float32(0.035)
    paint(image, c.uniform(0.2, 0.6), soft(cord, 2 * c.pixel) * np.float32(c.chance(0.6)))
    slant = inside_cell - np.float32(c.uniform(0.1, 0.3)) + np.float32(c.uniform(0, 0.4)) * (across - np.float32(0.4))
    process = np.float32(1) - np.sqrt(
        ((across - np.float32(wide + c.uniform(0.25, 0.33))) / np.float32(c.uniform(0.07, 0.14))) ** 2
        + (slant / np.float32(c.uniform(0.15, 0.28))) ** 2
    )
    process = process * np.float32(0.08) + np.float32(0.012) * c.noise(0.1)
    paint(image, c.uniform(0.02, 0.2), soft(process + np.float32(0.02), 2 * c.pixel) * np.float32(c.uniform(0.2, 0.8)))
    paint(image, tone * c.uniform(0.8, 1.2), soft(process, 2 * c.pixel) * np.float32(c.uniform(0.5, 1)))
    first = c.uniform(-1.3, -0.6)
    seen = c.v > first
    shape = np.where(seen, either(body, process), np.float32(-1))
    if c.chance(0.5):
        image *= soft(np.float32(c.uniform(0.8, 1.1)) - np.abs(c.x), 0.03)
    bodies = [body * (np.abs(number - each) < 0.5) for each in (-1, 0, 1)]
    drawing = _finished(c, image, shape, [], inverts=0.03)
    return drawing._replace(others=[(each > 0) & drawing.figure for each in bodies])
