"""Whether a picture in colour is of mucosa, as an endoscope sees it, or of skin.

Mucosa is redder than skin, which has less blood near its surface, and in skin a dark lesion stands out. Neither alone
tells them apart: cameras differ in colours and contrast, and red skin has clear lesions. A black frame is no more than
a hint: dermoscopes have black corners as well, and pictures of endoscopes are often cut to what is inside the frame.
"""

from __future__ import annotations

from math import log

import numpy as np
from numpy.typing import NDArray

from ..foreground.colour import DARKEST
from ..foreground.contrast import contrast_of
from ..foreground.view import BLACK, View

REDNESS = 1.0  # what the logarithm of red over green counts beside the lesion's contrast
FRAME = 0.1  # what a frame counts for mucosa, and its absence for skin


def is_mucosa(view: View, lesion: NDArray[np.bool_]) -> bool:
    """Whether redness is larger than the contrast of a lesion, but for what a frame tells.

    Redness is the logarithm of red over green, medians of what is not black. Both numbers grow with contrast, so that
    their comparison hardly depends on a camera's (``docs/explanation/quality.md``). Where there is no lesion a black
    frame decides.

    Args:
        view: of the image.
        lesion: bool (S, S), the mask that it has if it is of skin; may be empty.
    """
    if not lesion.any():
        return view.framed
    pixels = view.square[:, ::2, ::2]  # enough for a median
    picture = pixels.max(axis=0) >= BLACK
    if not picture.any():
        return False
    green, red = (float(np.median(channel[picture])) for channel in pixels[1:])
    redness = REDNESS * log(max(red, DARKEST) / max(green, DARKEST))
    return redness + (FRAME if view.framed else -FRAME) > contrast_of(lesion, view)
