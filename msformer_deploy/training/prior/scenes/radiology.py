"""X-rays and slices of CT.

Intensities of tissues are drawn anew for every scene, around what they usually are or wholly at random, as SynthSeg
does (Billot et al., Medical Image Analysis 2023).
"""

from __future__ import annotations

import numpy as np

from .appearance import illuminate, photographed
from .canvas import Canvas, Drawing, Field, both, either, paint, soft


def _tone_curve(c: Canvas, image: Field) -> Field:
    """A window that need not be a usual one: a random curve through five points, which may fold back."""
    if c.chance(0.75):
        low, width = c.uniform(-0.15, 0.2), c.uniform(0.6, 1.3)
        return ((image - np.float32(low)) / np.float32(width)).astype(np.float32)
    points = np.sort(c.rng.random(5)) if c.chance(0.5) else c.rng.random(5)
    return np.interp(image, np.linspace(0, 1, 5), points).astype(np.float32)


def _body(c: Canvas) -> tuple[Field, Field]:
    """A trunk in air, its wall of fat and muscle; the image and the shape of the trunk."""
    image = np.full((c.side, c.side), c.uniform(0, 0.06), np.float32)
    power = int(c.rng.choice((2, 2, 4)))
    body = c.blob(0, 0, c.uniform(0.82, 0.98), c.uniform(0.58, 0.82), 0, c.uniform(0.0, 0.05), power)
    if c.chance(0.6):  # the table
        along, beside = c.around(0, c.uniform(0.8, 1.0))
        table = np.float32(0.015) - np.abs(beside - np.float32(c.uniform(0, 0.15)) * along * along)
        paint(image, c.uniform(0.1, 0.8), soft(table, c.pixel))
    if c.chance(0.2):  # the border of the reconstruction
        r = c.uniform(0.95, 1.1)
        paint(image, c.uniform(0.1, 0.6), soft(np.float32(0.012) - np.abs(c.ellipse_of_image(0, 0, r, r)), c.pixel))
    fat = c.uniform(0.2, 0.45)
    paint(image, fat, soft(body, 2 * c.pixel))
    if c.chance(0.5):
        paint(image, c.uniform(0.4, 0.7), soft(np.float32(0.012) - np.abs(body - np.float32(0.012)), c.pixel))
    return image, body


def lung_ct(c: Canvas) -> Drawing:
    """Two dark lungs in a trunk, which may fill the image."""
    c.look(turn=0.12, zoom=(0.75, 1.55), shift=0.08, stretch=0.18, warp=c.uniform(0, 0.03))
    image, body = _body(c)
    muscle, air = c.uniform(0.45, 0.7), c.uniform(0.0, 0.15)
    if c.chance(0.3):
        paint(image, air, soft(-body, 2 * c.pixel))
    wall = np.float32(c.uniform(0.05, 0.16))
    chest = body - wall
    paint(image, muscle, soft(chest + wall * np.float32(0.6), 3 * c.pixel))
    gap = c.uniform(0.06, 0.22)
    shapes = []
    size, low = c.uniform(0.75, 1.02), c.uniform(-0.05, 0.08)
    for side in (-1, 1):
        a, b = c.uniform(0.3, 0.42) * size, c.uniform(0.42, 0.6) * size
        x = side * (gap + a * c.uniform(0.85, 1.0))
        lung = c.blob(
            x,
            low + c.uniform(-0.04, 0.04),
            a,
            b,
            side * c.uniform(-0.1, 0.25),
            c.uniform(0.02, 0.12),
            int(c.rng.choice((2, 2, 4))),
        )
        middle = np.float32(side) * c.u - np.float32(gap * c.uniform(0.3, 0.8)) + np.float32(0.03) * c.noise(0.2)
        shapes.append(both(lung, chest, middle))
    heart = c.blob(
        c.sign() * c.uniform(0, 0.18),
        c.uniform(-0.28, 0.05),
        c.uniform(0.14, 0.34),
        c.uniform(0.16, 0.36),
        c.uniform(-0.6, 0.6),
        0.1,
    )
    spine = c.blob(0, c.uniform(0.35, 0.55), c.uniform(0.1, 0.16), c.uniform(0.1, 0.18), 0, 0.1)
    shapes = [both(each, -heart, -spine - np.float32(0.02)) for each in shapes]
    if c.chance(0.12):  # one is hidden, or small
        shapes[0] = shapes[0] - np.float32(c.uniform(0.05, 0.15))
    lungs = either(*shapes)
    tissue = muscle + np.float32(c.log_uniform(0.005, 0.12)) * c.texture(0.02, 0.2)
    paint(image, tissue, soft(chest, 2 * c.pixel))
    inside = soft(lungs, c.log_uniform(1, 3) * c.pixel)
    air_in_lung = air + c.uniform(0, 0.15)
    vessels = c.noise(c.uniform(0.03, 0.07)) - np.float32(c.uniform(1.5, 2.6))
    parenchyma = air_in_lung + np.float32(c.uniform(0, 0.03)) * c.noise(0.2)
    if c.chance(0.3):  # denser below
        parenchyma = parenchyma + np.float32(c.uniform(0, 0.15)) * (c.v + 1)
    paint(image, parenchyma, inside)
    if c.chance(0.7):
        paint(image, muscle, inside * soft(vessels, 0.6) * np.float32(c.uniform(0.2, 0.9)))
    if c.chance(0.2):  # a diseased part
        paint(image, muscle, inside * soft(c.random_blob(0.05, 0.25), 0.1) * np.float32(c.uniform(0.2, 0.7)))
    bone = c.uniform(0.8, 1.0)
    if c.chance(0.5):
        paint(image, c.uniform(muscle, bone), soft(heart, 3 * c.pixel))
    paint(image, bone, soft(spine, 2 * c.pixel) * np.float32(c.uniform(0.5, 1)))
    ribs = both(np.float32(wall * 0.3) - np.abs(chest + wall * np.float32(0.4)), c.noise(0.12) * np.float32(0.05))
    paint(image, bone, soft(ribs, 2 * c.pixel) * np.float32(c.uniform(0.3, 1)))
    figure = (lungs > 0) & (body > 0)
    image = _tone_curve(c, image)
    if c.chance(0.15):  # a window so narrow that only noise is seen in tissue
        image = np.where(
            figure | (body < 0), c.uniform(0.9, 1), np.clip(0.1 + 0.4 * c.grain() - (image > 0.9), 0, 1)
        ).astype(np.float32)
    sides = [figure & (each > 0) for each in shapes]
    return Drawing(photographed(c, image, inverts=0.25), figure, [*sides, (heart > 0) & (body > 0) & ~figure])


def chest_xray(c: Canvas) -> Drawing:
    """Two lung fields behind ribs, the mediastinum between them, the diaphragm below."""
    c.look(turn=0.08, zoom=(0.85, 1.25), shift=0.08, stretch=0.12)
    image = np.full((c.side, c.side), c.uniform(0, 0.1), np.float32)
    soft_tissue = c.uniform(0.5, 0.75)
    trunk = c.blob(0, 0.45, c.uniform(0.75, 1.05), c.uniform(1.1, 1.4), 0, 0.03, 4)
    neck = c.ellipse(0, -1.0, c.uniform(0.2, 0.35), c.uniform(0.4, 0.7), 0, 4)
    shoulders = c.blob(0, c.uniform(-0.35, -0.1), 1.2, c.uniform(0.4, 0.5), 0, 0.05)
    body = either(trunk, neck, shoulders)
    if c.chance(0.25):
        body = np.ones_like(image)
    paint(image, soft_tissue + np.float32(0.03) * c.noise(0.4), soft(body, c.uniform(0.05, 0.2)))
    for side in (-1, 1) if c.chance(0.4) else ():  # arms and air beside the trunk
        arm = c.ellipse(side * c.uniform(1.0, 1.15), 0.3, c.uniform(0.05, 0.12), 0.9)
        paint(image, c.uniform(0, 0.3), soft(arm, 0.1))
    shapes = []
    apex, dome = c.uniform(-0.85, -0.6), c.uniform(0.3, 0.65)
    gap = c.uniform(0.1, 0.2)
    for side in (-1, 1):
        floor = dome + (c.uniform(-0.1, 0.0) if side < 0 else c.uniform(-0.05, 0.08))
        width, height = c.uniform(0.45, 0.6), floor - apex
        u, v = c.u * np.float32(side) - np.float32(gap), (c.v - np.float32(apex)) / np.float32(height)
        # From a narrow apex to a wide base; the diaphragm's dome rises towards the middle.
        outer = (
            np.float32(width) * np.sqrt(np.clip(1 - (1 - np.clip(v, 0, 1)) ** np.float32(c.uniform(1.8, 3)), 0, 1)) - u
        )
        heart = (
            np.float32(c.uniform(0.02, 0.12) if side < 0 else c.uniform(0.08, 0.3))
            * np.clip(v - np.float32(0.35), 0, 1)
            * 2
        )
        hilum = np.float32(0.05) * np.exp(-((v - np.float32(0.45)) ** 2) * 30)
        inner = u - heart - hilum + np.float32(0.04) * np.clip(np.float32(0.3) - v, 0, 1)
        bulge = np.float32(c.uniform(0.05, 0.2))
        below = np.float32(1) + bulge * ((u / np.float32(width)) ** 2 * 2 - 1) - v
        lung = np.minimum.reduce([outer, inner, below * np.float32(height), v * np.float32(height)])
        shapes.append(lung + np.float32(0.012) * c.noise(0.25))
    lungs = either(*shapes)
    depth = np.clip(lungs, 0, 0.3) * np.float32(c.uniform(0, 1))
    dark = c.uniform(0.15, 0.55) * soft_tissue
    inside = soft(lungs, c.log_uniform(1.5, 6) * c.pixel)
    paint(image, dark - np.float32(0.3) * depth + np.float32(0.03) * c.texture(0.04, 0.2), inside)
    if c.chance(0.85):  # ribs
        count, bow = c.uniform(6, 11), c.uniform(0.3, 0.9)
        across = np.abs(c.u)
        for slant in (1, -0.6) if c.chance(0.6) else (1,):
            phase = (
                c.v * np.float32(count)
                + np.float32(slant * bow * count * 0.5) * (across - across * across)
                + np.float32(c.uniform(0, 1))
            )
            wave = np.sin(phase * np.float32(np.pi)) - np.float32(c.uniform(0, 0.5))
            rib = soft(wave, 0.5) * soft(np.float32(0.85) - across, 0.3) * soft(both(c.v + 0.95, 0.8 - c.v), 0.2)
            image += rib * np.float32(c.uniform(0.02, 0.14))
    spine = soft(np.float32(c.uniform(0.06, 0.12)) - np.abs(c.u), 0.06)
    image += spine * np.float32(c.uniform(0, 0.2)) * (1 + np.float32(0.2) * np.sin(c.v * 30))
    if c.chance(0.6):  # clavicles
        across = np.abs(c.u)
        path = np.float32(c.uniform(-0.7, -0.55)) - np.float32(c.uniform(-0.1, 0.25)) * (across - np.float32(0.4))
        clavicle = both(np.float32(0.035) - np.abs(c.v - path), across - np.float32(0.1), np.float32(0.85) - across)
        image += soft(clavicle, 0.04) * np.float32(c.uniform(0.03, 0.15))
    below_dome = soft(c.v - np.float32(dome), 0.4)
    image += below_dome * np.float32(c.uniform(-0.15, 0.25))
    if c.chance(0.2):  # shadows
        paint(image, soft_tissue, soft(c.random_blob(0.08, 0.3), 0.3) * np.float32(c.uniform(0.2, 0.8)))
    if c.chance(0.3):
        illuminate(c, image, 0.3)
    figure = lungs > 0
    return Drawing(photographed(c, image, inverts=0.12), figure, [figure & (each > 0) for each in shapes])


def abdomen_ct(c: Canvas) -> Drawing:
    """The liver, or a lone bright organ, among the organs of a trunk."""
    c.look(turn=0.15, zoom=(0.7, 1.35), shift=0.1, stretch=0.12, warp=c.uniform(0.01, 0.05))
    image, body = _body(c)
    fat = c.uniform(0.12, 0.35)
    inner = body - np.float32(c.uniform(0.04, 0.14))
    paint(image, fat, soft(body, 2 * c.pixel))
    muscle = c.uniform(0.42, 0.55)
    paint(image, muscle, soft(inner, 3 * c.pixel))
    cavity = inner - np.float32(c.uniform(0.03, 0.07))
    paint(image, fat + np.float32(0.05) * c.noise(0.1), soft(cavity, 3 * c.pixel))
    ribs = both(np.float32(0.02) - np.abs(inner - np.float32(0.03)), c.noise(0.1) * np.float32(0.05) - np.float32(0.02))
    bone = c.uniform(0.8, 1.05)
    paint(image, bone, soft(ribs, 2 * c.pixel))
    liver_tone = muscle + c.uniform(0.03, 0.25)
    # Bowel, stomach, spleen and kidneys come first, the liver lies over them.
    bowel = c.noise(c.uniform(0.1, 0.2))
    part = soft(both(cavity, bowel * np.float32(0.1), c.v * np.float32(c.sign()) + np.float32(0.6)), 3 * c.pixel)
    paint(image, muscle + np.float32(0.12) * c.noise(0.08), part)
    gas = soft(
        both(cavity - np.float32(0.05), (c.noise(0.12) - np.float32(c.uniform(1.5, 2.5))) * np.float32(0.1)),
        2 * c.pixel,
    )
    paint(image, c.uniform(0, 0.1), gas)
    left = c.sign()
    organs = []
    for x, y, low, high, chance in (
        (-0.55, 0.1, 0.1, 0.24, 0.7),
        (0.42, 0.35, 0.1, 0.17, 0.5),
        (-0.42, 0.35, 0.1, 0.17, 0.6),
        (-0.35, -0.2, 0.12, 0.3, 0.6),
    ):
        if c.chance(chance):
            size = c.uniform(low, high)
            organ = c.blob(
                left * (x + c.uniform(-0.08, 0.08)),
                y + c.uniform(-0.1, 0.1),
                size,
                size * c.log_uniform(0.7, 1.6),
                c.uniform(-0.5, 0.5),
                0.12,
            )
            organ = both(organ, cavity)
            tone = liver_tone + c.uniform(-0.12, 0.2)
            paint(image, tone + np.float32(0.04) * c.texture(0.03, 0.1), soft(organ, 2 * c.pixel))
            organs.append(organ)
    size = c.log_uniform(0.28, 0.55)
    liver = c.blob(
        left * c.uniform(0.3, 0.45),
        c.uniform(-0.2, 0.1),
        size,
        size * c.uniform(0.7, 1.2),
        c.uniform(-0.8, 0.8),
        c.uniform(0.1, 0.25),
    )
    if c.chance(0.6):  # the left lobe
        lobe = c.blob(
            left * c.uniform(-0.1, 0.15),
            c.uniform(-0.4, -0.2),
            c.uniform(0.2, 0.45),
            c.uniform(0.12, 0.25),
            left * c.uniform(-0.4, 0.2),
            0.15,
        )
        liver = either(liver, lobe)
    if c.chance(0.5):  # a notch where vessels enter
        liver = both(liver, -c.blob(left * c.uniform(0, 0.2), c.uniform(0.05, 0.3), 0.18, 0.18, 0, 0.2))
    spine = c.blob(0, c.uniform(0.42, 0.55), c.uniform(0.1, 0.16), c.uniform(0.1, 0.15), 0, 0.08)
    liver = both(liver, cavity, -spine - np.float32(0.03))
    tissue = liver_tone + np.float32(c.log_uniform(0.005, 0.06)) * c.texture(0.02, 0.15)
    inside = soft(liver, 2 * c.pixel)
    paint(image, tissue, inside)
    if c.chance(0.5):  # vessels or tumours in it
        spots = c.noise(c.uniform(0.05, 0.15)) - np.float32(c.uniform(1.2, 2.2))
        paint(image, liver_tone + c.uniform(-0.2, 0.15), inside * soft(spots, 0.6) * np.float32(0.7))
    paint(image, bone, soft(spine, 2 * c.pixel))
    paint(image, muscle, soft(spine - np.float32(0.07), 2 * c.pixel) * np.float32(c.uniform(0, 0.6)))
    arch = c.blob(0, 0.72, c.uniform(0.04, 0.08), 0.05, 0, 0.2)
    paint(image, bone, soft(arch, 3 * c.pixel))
    aorta = c.ellipse(left * c.uniform(-0.12, 0), c.uniform(0.25, 0.35), 0.055, 0.055)
    paint(image, liver_tone + c.uniform(-0.05, 0.35), soft(aorta, 2 * c.pixel))
    image += np.float32(c.uniform(0, 0.04)) * c.grain() * (body > 0)
    figure = (liver > 0) & ~(aorta > 0)
    others = [(each > 0) & ~figure for each in (*organs, spine)]
    return Drawing(photographed(c, _tone_curve(c, image), inverts=0.1), figure, others)


def panoramic(c: Canvas) -> Drawing:
    """A row of upper and a row of lower teeth in the jaws."""
    c.look(turn=0.06, zoom=(0.85, 1.25), shift=0.08, stretch=0.15, warp=c.uniform(0, 0.02))
    image = np.full((c.side, c.side), c.uniform(0.1, 0.35), np.float32)
    image += np.float32(c.uniform(0.03, 0.1)) * c.noise(0.5) + np.float32(0.03) * c.noise(0.1)
    jaw = c.blob(0, 0.15, c.uniform(0.7, 0.9), c.uniform(0.6, 0.75), 0, 0.08, 4)
    bone = c.uniform(0.3, 0.55)
    paint(image, bone + np.float32(0.04) * c.texture(0.02, 0.2), soft(jaw, 0.15) * np.float32(c.uniform(0.6, 1)))
    smile, line = np.float32(c.uniform(-0.1, 0.25)), np.float32(c.uniform(-0.1, 0.1))
    bite = c.v - line + smile * c.u * c.u - np.float32(0.02) * c.noise(0.3)
    paint(
        image,
        c.uniform(0.05, 0.3),
        soft(np.float32(c.uniform(0.03, 0.08)) - np.abs(bite), 0.06) * soft(np.float32(0.8) - np.abs(c.u), 0.2),
    )
    reach, wide = c.uniform(0.5, 0.8), c.uniform(0.08, 0.15)
    teeth, alternatives = np.full_like(image, -1), []
    for row in (-1, 1):
        gap = c.uniform(0.0, 0.03)
        depth = bite * np.float32(row) - np.float32(gap)
        along = (c.u + np.float32(0.03) * depth * c.noise(0.4)) / np.float32(wide) + np.float32(c.uniform(0, 1))
        number = np.floor(along)
        per_tooth = c.rng.random((3, 128), np.float32)[:, np.mod(number, 128).astype(np.intp)]
        length = np.float32(c.uniform(0.3, 0.5)) * (np.float32(0.8) + np.float32(0.4) * per_tooth[0])
        taper = np.float32(0.48) - np.float32(c.uniform(0.1, 0.3)) * np.clip(depth / length, 0, 1)
        tooth = both(
            (taper - np.abs(along - number - np.float32(0.5))) * np.float32(wide),
            depth,
            length - depth,
            np.float32(reach) - np.abs(c.u),
        )
        tooth = np.where(per_tooth[1] < c.uniform(0.8, 1.0), tooth, np.float32(-0.1))
        tone = bone + c.uniform(0.06, 0.3)
        shade = (
            tone
            + np.float32(c.uniform(0, 0.2)) * soft(np.float32(0.4) - depth / length, 0.3)
            + np.float32(0.03) * c.noise(0.05)
        )
        paint(image, shade, soft(tooth, c.uniform(1, 2) * c.pixel))
        pulp = both(
            np.float32(0.006) - np.abs(along - number - np.float32(0.5)) * np.float32(wide) * np.float32(0.5),
            depth - np.float32(0.08),
            length - depth - np.float32(0.05),
        )
        paint(image, bone, soft(pulp, c.pixel) * np.float32(c.uniform(0, 0.6)))
        fillings = per_tooth[2] > np.float32(c.uniform(0.85, 1))
        paint(
            image,
            c.uniform(0.85, 1.05),
            soft(tooth - np.float32(0.015), c.pixel) * (fillings & (depth < length * np.float32(0.35))),
        )
        teeth = np.maximum(teeth, tooth)
        alternatives.append(tooth > 0)
    spine = soft(np.float32(c.uniform(0.05, 0.2)) - np.abs(c.u), 0.15)
    image += spine * np.float32(c.uniform(0, 0.2)) * np.clip(c.v + np.float32(0.3), 0, 1)
    if c.chance(0.5):  # dark sinuses and what lies beside the jaws
        for side in (-1, 1):
            sinus = c.blob(side * c.uniform(0.25, 0.5), c.uniform(-0.75, -0.55), c.uniform(0.15, 0.3), 0.12, 0, 0.2)
            image -= soft(sinus, 0.1) * np.float32(c.uniform(0.02, 0.12))
    image -= soft(np.abs(c.u) - np.float32(c.uniform(0.8, 0.95)), 0.1) * np.float32(c.uniform(0, 0.3))
    return Drawing(photographed(c, image, inverts=0.05), teeth > 0, alternatives)


def breast_xray(c: Canvas) -> Drawing:
    """A mass in a breast."""
    c.look(turn=0.2, zoom=(0.85, 1.4), shift=0.1, stretch=0.2, warp=c.uniform(0, 0.03))
    image = np.full((c.side, c.side), c.uniform(0, 0.05), np.float32)
    breast = c.blob(-1.0, c.uniform(-0.1, 0.1), c.uniform(1.2, 1.7), c.uniform(0.8, 1.1), 0, 0.03)
    depth = np.clip(breast, 0, 0.4)
    tissue = np.float32(c.uniform(0.1, 0.3)) + depth * np.float32(c.uniform(0, 0.6))
    glands = soft(c.noise(c.uniform(0.3, 0.8)) - np.float32(c.uniform(-0.5, 1)), 1.5) * soft(
        breast - np.float32(0.15), 0.2
    )
    tissue = tissue + glands * np.float32(c.uniform(0.05, 0.25)) * (1 + np.float32(0.5) * c.texture(0.03, 0.15))
    paint(image, tissue, soft(breast, 0.04))
    if c.chance(0.4):  # the muscle in the corner
        edge = np.float32(c.uniform(-1.2, -0.7)) - c.u - c.v * np.float32(c.sign() * c.uniform(0.4, 0.8))
        paint(image, c.uniform(0.4, 0.7), soft(both(edge, breast), 0.05))
    size = c.log_uniform(0.1, 0.32)
    mass = c.blob(
        c.uniform(-0.6, 0.2),
        c.uniform(-0.4, 0.4),
        size,
        size * c.log_uniform(0.7, 1.4),
        c.uniform(0, 3),
        c.uniform(0.05, 0.35),
    )
    mass = both(mass, breast - np.float32(0.03))
    tone = c.uniform(0.12, 0.4) * (1 + np.float32(0.15) * c.texture(0.03, 0.1))
    image += tone * soft(mass, c.log_uniform(1.5, 8) * c.pixel)
    spots = soft(c.noise(0.02) - np.float32(2.7), 0.3) * (image > 0.2)
    image += spots * np.float32(c.uniform(0, 0.3))
    return Drawing(photographed(c, image, inverts=0.1), mass > 0, [glands > 0.6])


def bones_xray(c: Canvas) -> Drawing:
    """Bones of a limb."""
    c.look(turn=np.pi, zoom=(0.8, 1.3), shift=0.2, stretch=0.2, warp=c.uniform(0, 0.04))
    image = np.full((c.side, c.side), c.uniform(0, 0.1), np.float32)
    count, wide = c.integer(1, 4), c.uniform(0.1, 0.28)
    bend, gap = np.float32(c.uniform(-0.3, 0.3)), c.uniform(1.15, 1.8) * wide
    across = c.u - bend * c.v * c.v
    limb = np.float32(gap * count * c.uniform(0.6, 1.0)) - np.abs(across) + np.float32(0.05) * c.noise(0.5)
    paint(image, c.uniform(0.2, 0.45) + np.float32(0.03) * c.texture(0.05, 0.4), soft(limb, 0.08))
    bones, joint = [], c.uniform(-0.5, 0.5)
    for index in range(count):
        middle = np.float32((index - (count - 1) / 2) * gap)
        end = joint + c.uniform(-0.1, 0.1)
        for side in (-1, 1) if c.chance(0.8) else (c.sign(),):
            along = (c.v - np.float32(end)) * np.float32(side) - np.float32(0.02)
            wider = np.float32(wide * 0.5) * (1 + np.float32(c.uniform(0, 0.5)) * np.exp(-along * 4))
            bones.append(both(wider - np.abs(across - middle), along, np.float32(c.uniform(0.5, 2)) - along))
    shape = either(*bones) + np.float32(0.015) * c.noise(0.15)
    cortex, marrow = c.uniform(0.6, 1.0), c.uniform(0.4, 0.75)
    paint(image, cortex, soft(shape, c.uniform(1, 3) * c.pixel))
    inside = soft(shape - np.float32(wide * c.uniform(0.08, 0.2)), 0.04)
    paint(image, marrow * (1 + np.float32(0.12) * c.texture(0.02, 0.1)), inside)
    figure = shape > 0
    return Drawing(photographed(c, image, inverts=0.1), figure, [figure & (each > 0) for each in bones])
