"""The deformable convolution against the same pixel by pixel, and by finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from msformer_deploy.models.deformable import TAPS, deform_conv, frozen_deform_conv


def at(channel: torch.Tensor, down: float, right: float) -> float:
    """Bilinear value of an image (H, W) at a place in pixels; outside it is 0."""
    height, width = channel.shape
    top, left = math.floor(down), math.floor(right)
    value = 0.0
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < height and 0 <= column < width:
            value += (1 - abs(down - row)) * (1 - abs(right - column)) * float(channel[row, column])
    return value


def pixel_by_pixel(x: torch.Tensor, weight: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Equation 1 of "Deformable ConvNets v2", term by term; offsets are pairs (down, right) of nine taps in rows."""
    batch, channels, height, width = x.shape
    result = x.new_zeros(batch, len(weight), height, width)
    for image in range(batch):
        for row in range(height):
            for column in range(width):
                for tap in range(9):
                    down = row + tap // 3 - 1 + float(offset[0, 2 * tap, row, column])
                    right = column + tap % 3 - 1 + float(offset[0, 2 * tap + 1, row, column])
                    factor = float(mask[0, tap, row, column])
                    for channel in range(channels):
                        value = factor * at(x[image, channel], down, right)
                        result[image, :, row, column] += weight[:, channel, tap // 3, tap % 3] * value
    return result


def case(
    batch: int = 2, channels: int = 3, filters: int = 2, height: int = 5, width: int = 4, reach: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random image, weight, offsets up to ``reach`` pixels to every side, and factors of both signs; float64."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1

    return (
        draw(batch, channels, height, width),
        draw(filters, channels, 3, 3),
        reach * draw(1, 2 * TAPS, height, width),
        draw(1, TAPS, height, width),
    )


@pytest.mark.parametrize("reach", [0.4, 2.5, 40.0], ids=["near", "over the border", "far outside"])
def test_it_is_the_sum_over_taps_at_displaced_places(reach):
    given = case(reach=reach)
    torch.testing.assert_close(deform_conv(*given), pixel_by_pixel(*given))


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 1), (-2, 1), (0.5, -0.25), (-0.75, -1.5)])
def test_one_displacement_of_all_taps(down, right):
    """Which of a pair is down and which right, and to which side."""
    x, weight, offset, mask = case(batch=1)
    offset[:, 0::2], offset[:, 1::2] = down, right
    torch.testing.assert_close(deform_conv(x, weight, offset, mask), pixel_by_pixel(x, weight, offset, mask))


@pytest.mark.parametrize(("height", "width"), [(5, 4), (2, 7), (8, 2)])
def test_undisplaced_and_unweighted_it_is_a_convolution(height, width):
    x, weight, offset, mask = case(height=height, width=width)
    got = deform_conv(x, weight, torch.zeros_like(offset), torch.ones_like(mask))
    torch.testing.assert_close(got, F.conv2d(x, weight, padding=1))


def test_everything_is_differentiable():
    given = [each.requires_grad_() for each in case(batch=1, channels=2, height=3, width=4, reach=1.3)]
    assert torch.autograd.gradcheck(deform_conv, given)


def test_the_images_of_a_batch_do_not_mix():
    x, *rest = case(batch=3)
    together = deform_conv(x, *rest)
    for index in range(3):
        torch.testing.assert_close(together[index : index + 1], deform_conv(x[index : index + 1], *rest))


def test_the_frozen_operator_gives_the_same():
    given = [each.float() for each in case()]
    assert torch.equal(frozen_deform_conv(*given), deform_conv(*given))


def test_an_exporter_is_told_the_shape():
    given = [each.to("meta") for each in case(batch=7, filters=5)]
    shape = frozen_deform_conv(*given)
    assert (shape.shape, shape.dtype) == ((7, 5, 5, 4), torch.float64)
    torch.library.opcheck(frozen_deform_conv, case(), test_utils=("test_schema", "test_faketensor"))
