"""Photographs of skin, of the inside of the gut and of the eye's ground."""

from __future__ import annotations

import numpy as np

from .appearance import frame, glints, hairs, illuminate, photographed, vignette
from .canvas import Canvas, Drawing, Field, either, lit, paint, plain, slope, soft

_SKIN = ((0.85, 0.68, 0.6), (0.78, 0.6, 0.5), (0.9, 0.78, 0.74), (0.72, 0.5, 0.4), (0.85, 0.55, 0.5), (0.75, 0.7, 0.75))
_LESION = (
    (0.35, 0.2, 0.15),
    (0.5, 0.33, 0.22),
    (0.6, 0.4, 0.25),
    (0.25, 0.2, 0.22),
    (0.6, 0.3, 0.28),
    (0.2, 0.13, 0.1),
)
_MUCOSA = (
    (0.75, 0.42, 0.35),
    (0.8, 0.5, 0.3),
    (0.65, 0.28, 0.22),
    (0.85, 0.6, 0.45),
    (0.7, 0.5, 0.42),
    (0.55, 0.25, 0.2),
)


def dermoscopy(c: Canvas) -> Drawing:
    """A lesion on skin, with hairs, bubbles, rulers and dark corners."""
    c.look(turn=np.pi, zoom=(0.85, 1.2), shift=0.12, warp=c.uniform(0, 0.05))
    skin = c.near(_SKIN[c.integer(0, len(_SKIN) - 1)], 0.07)
    image = plain(skin, c.side)
    image += _shades(c, 0.03) * c.texture(0.03, 0.4)
    if c.chance(0.4):  # redness
        redness = soft(c.noise(c.uniform(0.3, 1)), 2.5) * np.float32(c.uniform(0.05, 0.35))
        paint(image, c.near((0.85, 0.4, 0.35), 0.06), redness)
    if c.chance(0.3):  # freckles
        specks = c.noise(c.uniform(0.05, 0.12)) - np.float32(c.uniform(1.5, 2.5))
        paint(image, skin * 0.75, soft(specks, 1.0) * np.float32(c.uniform(0.2, 0.8)))
    size = c.log_uniform(0.2, 0.85)
    aspect = float(np.exp(c.uniform(-0.3, 0.3)))
    shape = c.blob(
        c.uniform(-0.25, 0.25),
        c.uniform(-0.25, 0.25),
        size * aspect,
        size / aspect,
        c.uniform(0, 3),
        c.uniform(0.04, 0.3),
    )
    faint = c.chance(0.3)
    colour = c.near(_LESION[c.integer(0, len(_LESION) - 1)], 0.05)
    body = plain(colour, c.side)
    for _ in range(c.integer(0, 3)):  # parts of other tones, regression, a net of pigment
        tone = c.near(_LESION[c.integer(0, len(_LESION) - 1)], 0.06) if c.chance(0.75) else c.near(skin, 0.08)
        patch = soft(c.noise(size * c.uniform(0.15, 0.8)) - np.float32(c.uniform(-0.3, 1.2)), c.log_uniform(0.2, 2))
        paint(body, tone, patch * np.float32(c.uniform(0.2, 0.9)))
    body += _shades(c, 0.12) * c.texture(0.02, 0.15)
    edge = c.log_uniform(1.5, 14) * c.pixel
    paint(image, body, soft(shape, edge) * np.float32(c.uniform(0.25, 0.5) if faint else c.uniform(0.5, 1)))
    if c.chance(0.25):  # darker towards the middle
        paint(image, colour * 0.5, soft(shape - np.float32(0.3 * size), 0.6 * size) * np.float32(c.uniform(0.2, 0.8)))
    if c.chance(0.35):
        hairs(c, image, c.near((0.15, 0.1, 0.08), 0.05) if c.chance(0.85) else (0.9, 0.85, 0.8), 14)
    if c.chance(0.2):
        glints(c, image)
    if c.chance(0.12):  # a ruler
        along, beside = c.around(c.uniform(-0.9, 0.9), c.uniform(-0.9, 0.9), c.uniform(0, np.pi))
        marks = np.where(np.abs(np.mod(along * np.float32(c.uniform(8, 16)), 1) - 0.5) < 0.08, 1, 0)
        paint(image, (0.15, 0.15, 0.2), (marks * (np.abs(beside) < 0.04)).astype(np.float32))
    if c.chance(0.5):
        illuminate(c, image, 0.35)
    if c.chance(0.45):
        vignette(c, image)
    return Drawing(photographed(c, image), shape > 0)


def _shades(c: Canvas, strength: float) -> Field:
    return (np.float32(c.log_uniform(0.008, strength)) * c.near((1, 1, 1), 0.2))[:, None, None]


def _mucosa(c: Canvas) -> tuple[Field, Field, Field]:
    """Mucosa: the image with its light, its colour, and its height with the folds.

    A gut is a tube that the lamp at the camera lights: its walls are bright near the camera and the lumen far away is
    dark. Folds stand across it, each a bright edge in front of the darker part behind it.
    """
    colour = c.near(_MUCOSA[c.integer(0, len(_MUCOSA) - 1)], 0.06)
    image = plain(colour, c.side)
    image += _shades(c, 0.03) * c.texture(0.04, 0.6)
    if c.chance(0.3):  # vessels
        net = np.float32(0.12) - np.abs(c.noise(c.uniform(0.15, 0.4)))
        paint(image, colour * c.near((0.8, 0.5, 0.5), 0.05), soft(net, 0.2) * np.float32(c.uniform(0.1, 0.5)))
    if c.chance(0.2):  # stool, mucus, bubbles
        lumps = c.noise(c.uniform(0.06, 0.2)) - np.float32(c.uniform(1.3, 2.3))
        paint(image, c.near((0.75, 0.65, 0.3), 0.1), soft(lumps, 0.7) * np.float32(c.uniform(0.2, 0.8)))
    height = np.float32(c.uniform(0.0, 0.08)) * c.noise(c.uniform(0.3, 1.0))
    for _ in range(c.integer(0, 2)):  # single folds
        width = c.uniform(0.1, 0.4)
        fold = np.clip(c.curve(width, 0.9) * np.float32(2 / width), 0, 1)
        height = height + np.sqrt(fold) * np.float32(width * c.uniform(0.1, 0.5))
    if c.chance(0.8):
        image *= _tube(c)
    return image, colour, height.astype(np.float32)


def _tube(c: Canvas) -> Field:
    """The light in a gut: dark where its lumen is, which may lie outside the image, with folds around that."""
    reach = 1.4 if c.chance(0.3) else 0.8
    x, y = c.uniform(-reach, reach), c.uniform(-reach, reach)
    u, v = c.around(x, y, c.uniform(0, np.pi))
    from_lumen = np.sqrt(u * u + v * v * np.float32(c.uniform(0.6, 1.6))) + np.float32(0.06) * c.noise(0.6)
    far = c.log_uniform(0.06, 0.5)
    near = np.clip(from_lumen, 0, None) ** np.float32(c.uniform(1.2, 4))
    light = np.float32(c.uniform(0.02, 0.3)) + near / (near + np.float32(far) ** 2)
    for _ in range(c.integer(0, 6)):
        edge = from_lumen - np.float32(c.log_uniform(far * 0.7, 1.6))
        edge = edge + np.float32(c.uniform(0.02, 0.25)) * c.noise(c.uniform(0.4, 0.9))
        part = soft(c.noise(0.8) + np.float32(c.uniform(-0.8, 1.2)), c.uniform(0.2, 1.0))
        behind = soft(-edge, c.log_uniform(1, 5) * c.pixel) * np.exp(np.minimum(edge, 0) / c.log_uniform(0.08, 0.6))
        rim = soft(edge, c.pixel) * np.exp(-np.maximum(edge, 0) / c.uniform(0.04, 0.3))
        light = light * (1 - part * behind * np.float32(c.uniform(0.2, 0.9)))
        light = light * (1 + part * rim * np.float32(c.uniform(0, 0.35)))
    if c.chance(0.3):  # so near that it is white
        flood = c.directed() - np.float32(c.uniform(0.5, 1.1)) + np.float32(0.15) * c.noise(0.5)
        light = light + soft(flood, c.uniform(0.2, 0.8)) * np.float32(c.uniform(0.5, 1.5))
    return np.asarray(light, np.float32)


def _light(c: Canvas, image: Field) -> None:
    x, y = c.uniform(-0.7, 0.7), c.uniform(-0.7, 0.7)
    distance = (c.x - np.float32(x)) ** 2 + (c.y - np.float32(y)) ** 2
    image *= np.float32(c.uniform(1.0, 1.5)) / (1 + np.float32(c.uniform(0.05, 0.8)) * distance)


def polyp(c: Canvas) -> Drawing:
    """Polyps: bumps of mucosa's own colour or nearly, in light from the scope."""
    c.look(turn=np.pi, zoom=(0.9, 1.15), shift=0.05, warp=c.uniform(0, 0.04))
    image, colour, height = _mucosa(c)
    count = int(c.rng.choice((1, 2, 3), p=(0.84, 0.11, 0.05)))
    parts = []
    for _ in range(count):
        size = c.log_uniform(0.13, 0.75 if count == 1 else 0.35)
        x, y, aspect = c.uniform(-0.6, 0.6), c.uniform(-0.6, 0.6), float(np.exp(c.uniform(-0.3, 0.3)))
        rough = c.uniform(0, 0.06) if c.chance(0.65) else c.uniform(0.06, 0.16)
        part = c.blob(x, y, size * aspect, size / aspect, c.uniform(0, 3), rough)
        for _ in range(c.integer(1, 4) if c.chance(0.25) else 0):  # of several lobes
            turn, lobe = c.uniform(0, 2 * np.pi), size * c.uniform(0.35, 0.7)
            part = either(
                part, c.blob(x + size * np.cos(turn) * 0.8, y + size * np.sin(turn) * 0.8, lobe, lobe, 0, 0.08)
            )
        parts.append(part)
    shape = either(*parts)
    size = float(np.clip(shape.max(), 0.05, 0.8))
    inside = soft(shape, c.log_uniform(1, 4) * c.pixel)
    light = c.uniform(0, 2 * np.pi)
    # A shadow beside it, a colour of its own or none, and a dome in the light.
    away = round(c.uniform(1, 5))
    shadow = np.roll(inside, (round(-np.sin(light) * away), round(-np.cos(light) * away)), (0, 1))
    image *= 1 - np.float32(c.uniform(0, 0.5)) * np.clip(shadow - inside, 0, 1)
    image *= 1 - np.float32(c.uniform(0, 0.25)) * soft(np.float32(0.05) - np.abs(shape + np.float32(0.03)), 0.08)
    tone = c.near(colour, 0.02)
    if c.chance(0.55):  # redder, paler, yellower, darker
        tones = ((1.05, 0.72, 0.72), (1.15, 1.3, 1.35), (1.1, 1.2, 0.85), (0.8, 0.7, 0.7))
        tone = c.near(colour * (1 + (np.array(tones[c.integer(0, 3)]) - 1) * c.uniform(0.2, 1)), 0.02)
    body = plain(np.clip(tone, 0.05, 1), c.side)
    body += _shades(c, 0.04) * c.texture(0.03, 0.3)
    risen = np.clip(shape * np.float32(1 / size), 0, 1)
    dome = np.sqrt(risen * (2 - risen)) * np.float32(size * c.uniform(0.3, 1.0))
    # It stands nearer to the lamp than what is around it, and takes on some of that light.
    around = np.sum(image.mean(axis=0) * inside) / max(float(np.sum(inside)), 1.0) / max(float(colour.mean()), 0.1)
    bright = float(np.clip(around * c.uniform(1.0, 1.5), 0.15, 1.3)) if c.chance(0.8) else c.uniform(0.9, 1.25)
    paint(image, body * np.float32(bright), inside * np.float32(c.uniform(0.6, 1)))
    height = np.where(shape > 0, height * np.float32(c.uniform(0, 0.6)), height) + dome
    image *= lit(c, height, light, c.uniform(0.05, 0.5), c.uniform(0.1, 0.7))
    if c.chance(0.45):
        towards = np.clip(slope(dome, light) * np.float32(1 / c.pixel), -1, 1) if c.chance(0.7) else None
        glints(c, image, c.uniform(0.8, 1.2), towards)
    return _endoscope(c, image, shape, parts if count > 1 else [])


def colonoscopy(c: Canvas) -> Drawing:
    """A polyp before or beside the gut's dark end, which has a clear outline as well but is no figure."""
    c.look(turn=np.pi, zoom=(0.9, 1.15), shift=0.05, warp=c.uniform(0, 0.04))
    colour = c.near(_MUCOSA[c.integer(0, len(_MUCOSA) - 1)], 0.06)
    image = plain(colour, c.side)
    image += _shades(c, 0.02) * c.texture(0.06, 0.6)
    if c.chance(0.4):
        net = np.float32(0.12) - np.abs(c.noise(c.uniform(0.15, 0.4)))
        paint(image, colour * c.near((0.75, 0.45, 0.45), 0.05), soft(net, 0.2) * np.float32(c.uniform(0.1, 0.6)))
    image *= _tube(c)
    # The end of the gut: dark, its outline a fold, sometimes with further folds and light inside.
    wide, aspect = c.log_uniform(0.2, 0.75), float(np.exp(c.uniform(-0.4, 0.4)))
    x, y, rough = c.uniform(-0.75, 0.75), c.uniform(-0.75, 0.75), c.uniform(0.0, 0.12)
    end = c.blob(x, y, wide * aspect, wide / aspect, c.uniform(0, np.pi), rough)
    inside = soft(end, c.log_uniform(1, 8) * c.pixel)
    rim = soft(np.float32(c.uniform(0.02, 0.08)) - np.abs(end + np.float32(0.05)), 0.08)
    image *= 1 + rim * np.float32(c.uniform(0, 0.4))
    depth = np.exp(-np.clip(end, 0, None) / np.float32(c.log_uniform(0.05, 0.6)))
    bottom = np.float32(c.uniform(0.03, 0.45))
    image *= 1 - inside * (1 - np.maximum(depth * np.float32(c.uniform(0.3, 0.9)), bottom))
    if c.chance(0.5):
        further = soft(np.float32(0.03) - np.abs(end - np.float32(c.uniform(0.08, 0.3))), 0.06) * inside
        image *= 1 + further * np.float32(c.uniform(0, 0.8))
    parts = []
    for _ in range(int(c.rng.choice((1, 2, 4), p=(0.82, 0.13, 0.05)))):
        size = c.log_uniform(0.13, 0.6)
        x, y, aspect = c.uniform(-0.7, 0.7), c.uniform(-0.7, 0.7), float(np.exp(c.uniform(-0.35, 0.35)))
        parts.append(c.blob(x, y, size * aspect, size / aspect, c.uniform(0, 3), c.uniform(0.0, 0.12)))
    shape = either(*parts)
    size = float(np.clip(shape.max(), 0.05, 0.8))
    on = soft(shape, c.log_uniform(1, 4) * c.pixel)
    tone = c.near(colour * c.near((1, 1, 1), 0.03), 0.015)
    if c.chance(0.5):
        tones = ((1.1, 0.75, 0.75), (1.1, 1.25, 1.25), (1.05, 1.15, 0.85), (0.95, 0.7, 0.7))
        tone = c.near(colour * (1 + (np.array(tones[c.integer(0, 3)]) - 1) * c.uniform(0.2, 1)), 0.02)
    body = plain(np.clip(tone, 0.05, 1), c.side)
    body += _shades(c, 0.03) * c.texture(0.03, 0.3)
    # It stands on the near wall: its light is that of the brighter half of what is around it, and more.
    light = image.mean(axis=0) / np.float32(max(float(colour.mean()), 0.1))
    near = light[(shape > -0.15) & (shape < 0.1)]
    bright = float(np.clip(np.quantile(near, c.uniform(0.6, 0.95)) if near.size else 0.8, 0.35, 1.3))
    image *= 1 - np.float32(c.uniform(0, 0.3)) * soft(np.float32(0.06) - np.abs(shape + np.float32(0.04)), 0.1)
    paint(image, body * np.float32(bright * c.uniform(0.95, 1.15)), on * np.float32(c.uniform(0.8, 1)))
    risen = np.clip(shape * np.float32(1 / size), 0, 1)
    dome = np.sqrt(risen * (2 - risen)) * np.float32(size * c.uniform(0.2, 0.8))
    turned = c.uniform(0, 2 * np.pi)
    image *= 1 + on * (lit(c, dome, turned, c.uniform(0.05, 0.4), c.uniform(0.1, 0.6)) - 1)
    if c.chance(0.6):
        glints(c, image, c.uniform(0.7, 1.0))
    return _endoscope(c, image, shape, parts if len(parts) > 1 else [])


def lesion_endoscopy(c: Canvas) -> Drawing:
    """Flat or ulcerous lesions, and Barrett's tongues: parts of mucosa of another colour and texture."""
    c.look(turn=np.pi, zoom=(0.9, 1.2), shift=0.05, warp=c.uniform(0.02, 0.08))
    image, colour, height = _mucosa(c)
    if c.chance(0.25):
        shape = c.ellipse(c.uniform(-0.4, 0.4), c.uniform(-0.4, 0.4), c.uniform(0.4, 0.8), c.uniform(0.4, 0.8))
        shape = shape + np.float32(c.uniform(0.03, 0.15)) * c.noise(c.uniform(0.2, 0.5))
    else:
        shape = c.random_blob(0.2, 0.8, 0.6) + np.float32(c.uniform(0, 0.06)) * c.noise(0.15)
    tones = ((1.1, 0.6, 0.55), (1.15, 1.4, 1.5), (1.05, 1.2, 0.9), (0.7, 0.6, 0.65), (0.95, 0.75, 0.9))
    tone = np.clip(c.near(colour * np.array(tones[c.integer(0, 4)]), 0.05), 0.05, 1)
    body = plain(tone, c.side)
    body += _shades(c, 0.2) * c.texture(0.02, 0.2)
    inside = soft(shape, c.log_uniform(2, 8) * c.pixel)
    paint(image, np.clip(body, 0, 1.2), inside * np.float32(c.uniform(0.5, 1)))
    height = height + inside * np.float32(c.uniform(0, 0.03)) * c.noise(c.uniform(0.05, 0.2))
    image *= lit(c, height, c.uniform(0, 2 * np.pi), c.uniform(0.05, 0.5), c.uniform(0.1, 0.7))
    if c.chance(0.1):  # dye
        dye = soft(c.noise(c.uniform(0.1, 0.4)), 1.5)
        paint(image, c.near((0.2, 0.35, 0.6), 0.05), dye * np.float32(c.uniform(0.2, 0.7)))
    if c.chance(0.4):
        glints(c, image)
    return _endoscope(c, image, shape, [])


def _endoscope(c: Canvas, image: Field, shape: Field, parts: list[Field]) -> Drawing:
    _light(c, image)
    figure = shape > 0
    if c.chance(0.7):
        seen = frame(c, image) > 0.5
        figure = figure & seen
    return Drawing(photographed(c, image, noise=0.03), figure, [figure & (part > 0) for part in parts])


def fundus(c: Canvas) -> Drawing:
    """The eye's ground: a bright disc from which vessels come, in a round field."""
    c.look(turn=0.3, zoom=(0.9, 1.1), shift=0.03, stretch=0.15)
    colour = c.near(((0.8, 0.35, 0.15), (0.85, 0.5, 0.15), (0.6, 0.25, 0.12), (0.4, 0.22, 0.12))[c.integer(0, 3)], 0.05)
    colour = np.clip(colour * np.float32(c.uniform(0.7, 1.25)), 0.05, 1)
    image = plain(colour, c.side)
    image += _shades(c, 0.05) * c.texture(0.05, 0.6)
    x, y = c.uniform(-0.75, 0.75), c.uniform(-0.2, 0.2)
    radius = c.log_uniform(0.1, 0.3) if c.chance(0.8) else c.log_uniform(0.3, 0.6)
    shape = c.blob(x, y, radius * c.uniform(0.85, 1.0), radius, c.uniform(-0.3, 0.3), c.uniform(0, 0.06))
    side = -1.0 if x > 0 else 1.0
    macula = c.ellipse(x + side * c.uniform(0.5, 0.8), y + 0.05, c.uniform(0.1, 0.25), c.uniform(0.1, 0.25))
    image *= 1 - soft(macula, 0.3) * np.float32(c.uniform(0, 0.6))
    if c.chance(0.3):  # exudates and haemorrhages
        specks = c.noise(c.uniform(0.04, 0.1)) - np.float32(c.uniform(1.8, 2.5))
        paint(image, (0.95, 0.8, 0.4) if c.chance(0.5) else colour * 0.4, soft(specks, 0.4) * np.float32(0.7))
    disc = c.near((1.0, 0.75, 0.4), 0.08) if c.chance(0.7) else colour * c.uniform(1.15, 1.5)
    paint(image, disc, soft(shape, c.log_uniform(1.5, 6) * c.pixel) * np.float32(c.uniform(0.4, 1)))
    cup = c.blob(x, y, radius * c.uniform(0.3, 0.7), radius * c.uniform(0.3, 0.7), 0, 0.1)
    paint(image, np.clip(disc * 1.25, 0, 1.1), soft(cup, 0.06) * np.float32(c.uniform(0, 0.9)))
    if c.chance(0.3):  # a pale ring
        paint(image, colour * 1.3, soft(np.float32(0.05) - np.abs(shape + np.float32(0.05)), 0.06) * np.float32(0.5))
    vessel = colour * c.near((0.65, 0.35, 0.35), 0.06)
    u, v = c.around(x, y)
    for _ in range(c.integer(4, 9)):
        turn, bend = c.uniform(0, 2 * np.pi), c.uniform(-0.5, 0.5)
        along = np.float32(np.cos(turn)) * u + np.float32(np.sin(turn)) * v
        beside = np.float32(np.cos(turn)) * v - np.float32(np.sin(turn)) * u
        wave = beside + np.float32(bend) * along * np.abs(along) + np.float32(0.02) * c.noise(0.3)
        width = np.float32(c.uniform(0.6, 1.6) * c.pixel)
        paint(
            image, vessel, soft(np.minimum(width - np.abs(wave), along * 3), c.pixel) * np.float32(c.uniform(0.3, 0.8))
        )
    illuminate(c, image, 0.4)
    figure = shape > 0
    if c.chance(0.8):
        r = c.uniform(0.85, 1.02)
        field = c.ellipse_of_image(0, 0, r, r)
        if c.chance(0.5):  # cut above and below
            field = np.minimum(field, np.float32(c.uniform(0.75, 1)) - np.abs(c.y))
        seen = soft(field, c.pixel * c.uniform(1, 3))
        if c.chance(0.2):
            paint(
                image,
                (0.9, 0.6, 0.3),
                soft(np.float32(0.03) - np.abs(field - np.float32(0.03)), 0.05) * np.float32(0.7),
            )
        paint(image, c.uniform(0, 0.04), 1 - seen)
        figure = figure & (seen > 0.5)
    return Drawing(photographed(c, image, noise=0.03), figure, [cup > 0])
