"""What Python finds in small images, and the page's own code must find: ``python page_fixtures.py`` writes it.

The file is read by ``web/test/port.test.ts``. A test of Python's sees that it is not older than what Python finds now.
"""

from __future__ import annotations

import base64
import gzip
import json
import threading
from typing import Any

import numpy as np
from locations import ROOT
from numpy.typing import NDArray

from msformer_deploy.bundle.fingerprint import noise
from msformer_deploy.foreground import borders
from msformer_deploy.foreground.boxes import reaching, window_around
from msformer_deploy.foreground.candidates import candidates
from msformer_deploy.foreground.confidence import confidence_of
from msformer_deploy.foreground.frame import without_frame
from msformer_deploy.foreground.obeyed import obeyed
from msformer_deploy.foreground.prompts import Box, Point, Prompts
from msformer_deploy.foreground.threshold import threshold_of
from msformer_deploy.foreground.view import View
from msformer_deploy.images import draw
from msformer_deploy.images.outlines import outlines
from msformer_deploy.images.read import image_from_array, network_input, resize_linear, resize_nearest

PATH = ROOT / "web" / "test" / "fixtures.json.gz"
SIDE = 33  # of the network's input


def make() -> dict[str, Any]:
    """All fixtures, as plain data."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:90, :120]
    disc = (rows - 40) ** 2 + (columns - 66) ** 2 < 24**2
    skin = np.stack([210 - 80 * disc, 160 - 90 * disc, 140 - 60 * disc], axis=2) - (rows + columns)[..., None] / 8
    skin = np.clip(skin + random.normal(0, 6, skin.shape), 0, 255).astype(np.uint8)
    framed = skin.copy()
    framed[(rows - 45) ** 2 + (columns - 60) ** 2 > 50**2] = 3
    grey = (disc * 900 + 300 + random.normal(0, 40, disc.shape)).astype(np.uint16)
    pictures = {
        "colour": skin,
        "framed": framed,
        "grey": np.repeat(skin[..., :1], 3, axis=2),
        "deep": grey,
        "tall": np.ascontiguousarray(skin[:, :31]),
    }
    return {
        "pictures": {name: _picture(pixels) for name, pixels in pictures.items()},
        "masks": [_mask(random.random((SIDE, SIDE), np.float32) ** power, 50, 71) for power in (1, 4, 12)],
        "candidates": [_candidates(each) for each in _uncertain()],
        "deep": {name: _deep(values) for name, values in _deep_pictures(random).items()},
        "prompts": [_prompts(each, network_input(image_from_array(skin), SIDE)) for each in _shown()],
        "boxes": [_box(each, skin, random) for each in (Box(40, 12, 93, 66), Box(0, 0, 20, 89), Box(100, 80, 119, 85))],
        "outlines": [_outlines(random.random((12, 15)) < share) for share in (0.3, 0.5, 0.8)],
        "noise": pack(noise(9)),
        "palette": draw.palette(100).ravel().tolist(),
    }


def _picture(pixels: NDArray[Any]) -> dict[str, Any]:
    image = image_from_array(pixels)
    square = network_input(image, SIDE)
    view = View(network_input(image, borders.SIDE))
    seen = without_frame(square, view)
    labels = (seen.mean(axis=0) < np.median(seen)).astype(np.uint8) * 5 + 2
    three = labels + (np.arange(SIDE) > 20).astype(np.uint8)
    return {
        "pixels": pack(pixels),
        "square": pack(square),
        "seen": pack(seen),
        "coloured": view.coloured,
        "framed": view.framed,
        "labels": [
            {"given": pack(each), "drawn": pack(resize_nearest(borders.redraw(each, view), 90, 120))}
            for each in (labels, three)
        ],
    }


def _mask(probability: NDArray[np.float32], height: int, width: int) -> dict[str, Any]:
    threshold = threshold_of(probability)
    confidence = confidence_of(probability > threshold, probability)
    return {
        "probability": pack(probability),
        "threshold": threshold,
        "mask": pack((resize_linear(probability, height, width) > threshold).astype(np.uint8)),
        "confidence": list(confidence),
    }


def _uncertain() -> list[NDArray[np.float32]]:
    """Probabilities of several objects: apart, one inside the other, and one alone."""
    rows, columns = np.mgrid[:SIDE, :SIDE]

    def bump(row: int, column: int, size: float, height: float) -> NDArray[np.float64]:
        return height * np.exp(-((((rows - row) ** 2 + (columns - column) ** 2) / size**2) ** 2))

    fields = [
        bump(8, 8, 5, 0.95) + bump(24, 22, 6, 0.6) + bump(26, 5, 3, 0.4),
        bump(16, 16, 13, 0.35) + bump(14, 18, 4, 0.6),
        bump(15, 17, 9, 0.99),
    ]
    return [each.clip(0, 1).astype(np.float32) for each in fields]


def _candidates(probability: NDArray[np.float32]) -> dict[str, Any]:
    height, width = 50, 71
    found = candidates(probability, resize_linear(probability, height, width))
    return {
        "probability": pack(probability),
        "masks": [pack(each.mask.astype(np.uint8)) for each in found],
        "confidences": [each.confidence.value for each in found],
    }


def _deep_pictures(random: np.random.Generator) -> dict[str, NDArray[Any]]:
    slope = (np.linspace(100, 3000, 40 * 50).reshape(40, 50) + random.normal(0, 20, (40, 50))).astype(np.int16)
    padded, metal, offset, unit, holes = (
        slope.copy(),
        slope.copy(),
        slope.copy(),
        slope / 4096,
        slope.astype(np.float32),
    )
    padded[:, :4] = -2000
    metal[20:22, 20:23] = 30000
    offset = (offset // 20 + 20000).astype(np.uint16)
    holes[:3] = np.nan
    return {
        "slope": slope.astype(np.uint16),
        "signed": slope - np.int16(1024),
        "padded": padded,
        "metal": metal,
        "offset": offset,
        "unit": unit.astype(np.float32),
        "holes": holes,
        "colour": np.stack([slope, slope[::-1], slope], axis=2).astype(np.uint16),
    }


def _deep(values: NDArray[Any]) -> dict[str, Any]:
    return {"values": pack(values), "pixels": pack(image_from_array(values).pixels)}


def _shown() -> list[Prompts]:
    return [
        Prompts([Point(10, 20)]),
        Prompts([Point(10, 20), Point(70, 3, False), Point(0, 0)]),
        Prompts(box=Box(13, 7, 66, 40)),
        Prompts([Point(30, 30)], Box(5, 5, 60, 44)),
    ]


def _prompts(prompts: Prompts, guide: NDArray[np.float32]) -> dict[str, Any]:
    height, width = 50, 71
    mask = np.zeros((height, width), bool)
    mask[:9, 60:] = True
    box = prompts.box
    return {
        "points": [list(each) for each in prompts.points],
        "box": list(box) if isinstance(box, Box) else None,
        "channels": pack(prompts.channels(height, width, 96).astype(np.uint8)),
        "guide": pack(guide),
        "mask": pack(mask.astype(np.uint8)),
        "obeyed": pack(obeyed(mask, guide, prompts).astype(np.uint8)),
        "within": pack(prompts.within(np.ones((SIDE, SIDE), np.float32), height, width).astype(np.uint8)),
    }


def _box(box: Box, pixels: NDArray[np.uint8], random: np.random.Generator) -> dict[str, Any]:
    """What a box does, and a point in it, on a picture of 90 x 120 pixels; the features have 3 channels."""
    height, width = pixels.shape[:2]
    window = window_around([box], height, width, SIDE)
    part = window.part(height, width)
    prompts = Prompts([Point(box.left, box.top), Point(0, 60, False)], box)
    features = random.random((SIDE, SIDE, 3), np.float32)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    probability = np.exp(-((rows - 15.0) ** 2 + (columns - 18.0) ** 2) / 90).astype(np.float32)
    placed = window.placed(probability)
    small, large = (prompts.within(each, height, width) for each in (placed, resize_linear(placed, height, width)))
    threshold = threshold_of(small)
    enlarged = window.enlarged(features.transpose(2, 0, 1), threading.local())
    return {
        "box": list(box),
        "picture": pack(pixels),
        "window": [window.left, window.top, window.right, window.bottom],
        "square": pack(network_input(image_from_array(pixels), SIDE, part=part)),
        "channels": pack(prompts.channels(height, width, 96, part).astype(np.uint8)),
        "features": pack(features),
        "enlarged": pack(np.ascontiguousarray(enlarged.transpose(1, 2, 0))),
        "probability": pack(probability),
        "placed": pack(placed),
        "within": pack(large),
        "threshold": threshold,
        "reaching": pack(reaching(large, threshold, [box])),
    }


def _outlines(mask: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "mask": pack(mask.astype(np.uint8)),
        "outlines": [{"area": each.area, "box": list(each.box)} for each in outlines(mask)],
    }


def pack(array: NDArray[Any]) -> dict[str, Any]:
    """An array as plain data."""
    array = np.ascontiguousarray(array)
    return {
        "type": array.dtype.name,
        "shape": list(array.shape),
        "data": base64.b64encode(array.tobytes()).decode(),
    }


def unpack(packed: dict[str, Any]) -> NDArray[Any]:
    """The array of :func:`pack`."""
    return np.frombuffer(base64.b64decode(packed["data"]), packed["type"]).reshape(packed["shape"])


def read() -> dict[str, Any]:
    """The fixtures in the file."""
    return json.loads(gzip.decompress(PATH.read_bytes()))


if __name__ == "__main__":
    PATH.write_bytes(gzip.compress(json.dumps(make()).encode(), mtime=0))
    print(f"{PATH.name}: {PATH.stat().st_size} bytes")
