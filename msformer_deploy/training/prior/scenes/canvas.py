"""What scenes are drawn with: coordinates, random fields, shapes with soft edges, and layers one over another.

A *field* is floating-point (S, S), mostly float32. A *shape* is a field that is positive inside, 0 on the outline and
negative outside, about the distance to the outline in the units of the coordinates, in which the image is 2 wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.floating[Any]]
Colour = Sequence[float] | NDArray[Any]

_BANK = 600  # pixels of the side of a stored field
_SIGMAS = (0.5, 0.8, 1.2, 1.8, 2.7, 4.0, 6.0, 9.0, 13.5, 20.0, 30.0, 45.0)  # pixels, of the smoothing of white noise
_LOGS = tuple(math.log(sigma) for sigma in _SIGMAS)


@lru_cache(maxsize=2)
def _bank(seed: int) -> list[Field]:
    """White noise, smoothed by each of the sigmas; mean 0 and deviation 1."""
    rng = np.random.default_rng((seed, 0x5EED))
    found = []
    for sigma in _SIGMAS:
        field = ndimage.gaussian_filter(rng.standard_normal((_BANK, _BANK), np.float32), sigma, mode="wrap")
        found.append(((field - field.mean()) / field.std()).astype(np.float32))
        found[-1].flags.writeable = False  # scenes get views of it
    return found


class Drawing(NamedTuple):
    """What a family of scenes draws.

    Attributes:
        image: (S, S) grey or (3, S, S) RGB, about 0..1.
        figure: bool (S, S).
        others: what else could be asked for with a prompt.
    """

    image: Field
    figure: NDArray[np.bool_]
    others: Sequence[NDArray[np.bool_]] = ()


class Canvas:
    """A square to draw on, with a random generator of its own.

    Attributes:
        rng: of this scene.
        side: pixels.
        pixel: its size in units of the coordinates.
        x, y: coordinates of the pixels' centres in the image, -1..1.
        u, v: the same as the camera sees them, see :meth:`look`.
    """

    def __init__(self, rng: np.random.Generator, side: int, seed: int) -> None:
        self.rng, self.side, self.pixel = rng, side, 2 / side
        self._bank = _bank(seed)
        line = ((np.arange(side, dtype=np.float32) + 0.5) * np.float32(self.pixel)) - 1
        self.y, self.x = (np.ascontiguousarray(each) for each in np.meshgrid(line, line, indexing="ij"))
        self.u, self.v = self.x, self.y

    # Random numbers.

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.rng.random())

    def log_uniform(self, low: float, high: float) -> float:
        return float(low * (high / low) ** self.rng.random())

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def sign(self) -> float:
        return 1.0 if self.rng.random() < 0.5 else -1.0

    def integer(self, low: int, high: int) -> int:
        """Both ends included."""
        return int(self.rng.integers(low, high + 1))

    def near(self, colour: Colour, spread: float) -> Field:
        """A colour like another one."""
        return (np.asarray(colour) + spread * self.rng.standard_normal(len(colour))).astype(np.float32)

    # Coordinates.

    def look(
        self,
        *,
        turn: float = 0.15,
        zoom: tuple[float, float] = (0.85, 1.2),
        shift: float = 0.1,
        stretch: float = 0.1,
        warp: float = 0.0,
        flip: bool = True,
    ) -> None:
        """Set u and v: a random view; ``zoom`` above 1 makes things larger, ``turn`` is in radians."""
        angle = self.uniform(-turn, turn)
        scale, stretched = self.log_uniform(*zoom), float(np.exp(self.uniform(-stretch, stretch)))
        cos, sin = np.cos(angle), np.sin(angle)
        x, y = self.x - self.uniform(-shift, shift), self.y - self.uniform(-shift, shift)
        if flip and self.chance(0.5):
            x = -x
        u = (cos * x + sin * y) / (scale * stretched)
        v = (cos * y - sin * x) * (stretched / scale)
        if warp:
            u = u + warp * self.noise(0.35)
            v = v + warp * self.noise(0.35)
        self.u, self.v = u.astype(np.float32), v.astype(np.float32)

    def around(self, x: float, y: float, angle: float = 0.0) -> tuple[Field, Field]:
        """Measure u and v from a point, along axes turned by an angle."""
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        u, v = self.u - np.float32(x), self.v - np.float32(y)
        return cos * u + sin * v, cos * v - sin * u

    # Random fields.

    def noise(self, size: float, along: int = 1, down: int = 1) -> Field:
        """A random field, mean 0 and deviation 1; ``size`` is that of its bumps in units of the coordinates.

        Its bumps are ``along`` times narrower in x, and ``down`` times in y.
        """
        wanted = math.log(max(size / self.pixel / 2, _SIGMAS[0]))
        field = self._bank[min(range(len(_SIGMAS)), key=lambda index: abs(_LOGS[index] - wanted))]
        top, left = self._offset(down), self._offset(along)
        found = field[top : top + self.side * down : down, left : left + self.side * along : along]
        return found[:: (1, -1)[self.integer(0, 1)], :: (1, -1)[self.integer(0, 1)]]

    def _offset(self, step: int) -> int:
        return int(self.rng.integers(0, _BANK - self.side * step + 1))

    def grain(self) -> Field:
        """White noise."""
        return self.rng.standard_normal((self.side, self.side), np.float32)

    def texture(self, finest: float = 0.03, coarsest: float = 0.5) -> Field:
        """A sum of random fields of several sizes, deviation about 1."""
        found = self.noise(self.log_uniform(finest, coarsest))
        if self.chance(0.6):
            found = 0.7 * found + 0.7 * self.noise(self.log_uniform(finest, coarsest))
        kind = self.rng.random()
        if kind < 0.15:
            found = 1.2 - 2 * np.abs(found)  # ridges
        elif kind < 0.25:
            found = np.where(found > 0, np.float32(0.8), np.float32(-0.8))  # patches
        elif kind < 0.33:
            found = np.sin(np.float32(self.uniform(8, 40)) * self.directed() + found) * np.float32(1.2)  # stripes
        return found.astype(np.float32)

    def directed(self) -> Field:
        """A ramp across the image in a random direction, -1..1 over its width."""
        angle = self.uniform(0, 2 * np.pi)
        return np.float32(np.cos(angle)) * self.x + np.float32(np.sin(angle)) * self.y

    # Shapes.

    def ellipse(self, x: float, y: float, a: float, b: float, angle: float = 0.0, power: int = 2) -> Field:
        """A shape with half axes a and b; ``power`` 4 gives it corners."""
        u, v = self.around(x, y, angle)
        return _ellipse(u, v, a, b, power)

    def ellipse_of_image(self, x: float, y: float, a: float, b: float, power: int = 2) -> Field:
        """An ellipse that stays where it is in the image, however the scene is looked at."""
        return _ellipse(self.x - np.float32(x), self.y - np.float32(y), a, b, power)

    def blob(
        self, x: float, y: float, a: float, b: float, angle: float = 0.0, rough: float = 0.15, power: int = 2
    ) -> Field:
        """An ellipse with a random outline: ``rough`` is how far it may go in and out, in parts of the radius."""
        size = min(a, b)
        found = self.ellipse(x, y, a, b, angle, power)
        if rough:
            found = found + np.float32(size * rough) * self.noise(size * self.uniform(0.5, 1.1))
            found = found + np.float32(size * rough * 0.35) * self.noise(size * self.uniform(0.12, 0.3))
        return found

    def random_blob(self, low: float, high: float, reach: float = 0.6) -> Field:
        """A blob of random place, size between low and high, aspect and roughness."""
        radius, aspect = self.log_uniform(low, high), float(np.exp(self.uniform(-0.5, 0.5)))
        a, b = radius * aspect, radius / aspect
        return self.blob(
            self.uniform(-reach, reach),
            self.uniform(-reach, reach),
            a,
            b,
            self.uniform(0, np.pi),
            self.uniform(0.0, 0.3),
            int(self.rng.choice((2, 2, 2, 4))),
        )

    def curve(self, width: float, bend: float = 0.5, offset: float = 0.9) -> Field:
        """A bent line across the image, of a width in units of the coordinates."""
        u, v = self.around(self.uniform(-0.6, 0.6), self.uniform(-0.6, 0.6), self.uniform(0, np.pi))
        path = np.float32(self.uniform(-bend, bend)) * u * u + np.float32(self.uniform(-offset, offset) * 0.3)
        return np.float32(width / 2) - np.abs(v - path)

    def cells(self, count: float, jitter: float = 0.25, warp: float = 0.0) -> Cells:
        """A grid of about ``count`` cells across the image; see :class:`Cells`."""
        angle = self.uniform(0, np.pi)
        u, v = self.around(self.uniform(-1, 1), self.uniform(-1, 1), angle)
        if warp:
            u, v = u + np.float32(warp) * self.noise(0.3), v + np.float32(warp) * self.noise(0.3)
        u, v = u * np.float32(count / 2), v * np.float32(count / 2 / 0.87)
        row = np.floor(v)
        u = u + np.float32(0.5) * np.mod(row, 2)  # every other row by half a cell, as in a honeycomb
        column = np.floor(u)
        table = 64
        ids = (np.mod(row, table) * table + np.mod(column, table)).astype(np.intp)
        random = self.rng.random((4, table * table), np.float32)
        across = u - column - 0.5 - np.float32(jitter) * (random[0][ids] - 0.5) * 2
        down = (v - row - 0.5) * np.float32(0.87) - np.float32(jitter) * (random[1][ids] - 0.5) * 2
        return Cells(across, down, random[2][ids], random[3][ids], np.float32(2 / count))


class Cells(NamedTuple):
    """A plane cut into cells.

    Attributes:
        across, down: from the centre of a pixel's cell, in cells.
        first, second: random numbers 0..1 of the pixel's cell.
        size: of a cell, in units of the coordinates.
    """

    across: Field
    down: Field
    first: Field
    second: Field
    size: np.float32

    def discs(self, radius: float, spread: float = 0.0, aspect: float = 0.0) -> Field:
        """Shapes, one in each cell: an ellipse of this mean radius, in cells."""
        angle = self.second * np.float32(np.pi)
        cos, sin = np.cos(angle), np.sin(angle)
        along, beside = cos * self.across + sin * self.down, cos * self.down - sin * self.across
        long = np.float32(1 + aspect)
        distance = np.sqrt((along / long) ** 2 + (beside * long) ** 2)
        return (np.float32(radius) * (1 + np.float32(spread) * (self.first - 0.5) * 2) - distance) * self.size


def _ellipse(u: Field, v: Field, a: float, b: float, power: int) -> Field:
    u, v = np.abs(u * np.float32(1 / a)), np.abs(v * np.float32(1 / b))
    squarings = {2: 1, 4: 2}[power]
    for _ in range(squarings):
        u, v = u * u, v * v
    radius = u + v
    for _ in range(squarings):
        radius = np.sqrt(radius)
    return (1 - radius) * np.float32(min(a, b))


def soft(shape: Field, width: float) -> Field:
    """Coverage 0..1 of a shape whose outline is blurred over a width, in units of the coordinates."""
    return np.clip(shape * np.float32(1 / width) + np.float32(0.5), 0, 1)


def both(*shapes: Field) -> Field:
    """The part that shapes have in common."""
    return np.minimum.reduce(shapes)


def either(*shapes: Field) -> Field:
    """All that is in one of the shapes."""
    return np.maximum.reduce(shapes)


def paint(image: Field, what: Field | float | Colour, where: Field) -> None:
    """Cover an image, in place.

    Args:
        image: (S, S) or (3, S, S).
        what: intensities or colours: a number, a colour, (S, S) or (3, S, S).
        where: coverage 0..1, (S, S).
    """
    colour = np.asarray(what, np.float32)
    if colour.ndim == 1:
        colour = colour[:, None, None]
    image += where * (colour - image)


def plain(colour: Colour, side: int) -> Field:
    """An image (3, S, S) of one colour."""
    return np.tile(np.asarray(colour, np.float32)[:, None, None], (1, side, side))


def slope(height: Field, light: float) -> Field:
    """How fast a surface rises towards the light, whose direction is an angle; per pixel."""
    down, across = np.gradient(height)
    rise = np.float32(np.cos(light)) * across + np.float32(np.sin(light)) * down
    return np.asarray(rise, np.float32)


def lit(c: Canvas, height: Field, light: float, aside: float, steep: float) -> Field:
    """Brightness of a surface that a lamp beside the camera lights (Lambert 1760).

    Args:
        c: the canvas.
        height: in units of the coordinates.
        light: direction of the lamp, an angle.
        aside: how far it stands to that side; 0 is at the camera.
        steep: how much darker steep parts are.
    """
    down, across = (np.clip(each / np.float32(c.pixel), -3, 3) for each in np.gradient(height))
    towards = np.float32(np.cos(light)) * across + np.float32(np.sin(light)) * down
    steepness = np.sqrt(1 + np.float32(steep * steep) * (down * down + across * across))
    return np.clip((1 + np.float32(aside) * towards) / steepness, 0.1, 2).astype(np.float32)
