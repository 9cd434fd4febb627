"""The two stages around the network, for one image: read before it, finish and write after it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DeployError, ImageError, printable
from ..foreground.prompts import Prompts
from ..foreground.volume_prompts import VolumePrompts
from ..images.contents import content_sha256, stamps
from ..images.read import read_image
from ..machine.memory import is_out_of_memory
from ..segmenter import Learned, Prepared, Segmentation, Segmenter
from ..volume_segmenter import VolumeSegmentation
from . import report
from .formats import Wanted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..images.inputs import Item

Found = Learned | VolumeSegmentation
Entry = dict[str, Any]  # of an image, in the report


@dataclass(frozen=True)
class Stages:
    """What is done with each image beside the network. Any thread may do it, and so may other processes.

    Attributes:
        segmenter: prepares images and finishes what was learned; its network is not used.
        output: the folder of the results.
        batch: images in one call of the network, for what is said where memory is short.
        wanted: what is read and written.
        prompts: what is shown on images.
        contents: hashes of what was read and is not written yet.
    """

    segmenter: Segmenter
    output: Path
    batch: int
    wanted: Wanted
    prompts: Mapping[Path, Prompts | VolumePrompts]
    contents: dict[Item, str] = field(default_factory=dict)

    def read(self, item: Item) -> tuple[Prepared | Exception | None, float]:
        """What the network takes of an image, or why it cannot be had, and the seconds it took to read it.

        None for a volume: it is read when its turn comes, for two would need twice the memory.
        """
        if item.kind == "volume":
            return None, 0.0
        start, before = time.perf_counter(), stamps(item)
        try:
            image = read_image(item.path, self.wanted.reading.window)
            self.wanted.check(item, image)
            prompts = self.prompts.get(item.path)
            assert not isinstance(prompts, VolumePrompts)  # of an image
            if prompts is not None:
                prompts.require_fit(image.height, image.width)
            self.contents[item] = content_of(item, before)
        except DeployError as error:
            return ImageError(self.named(item, error)), time.perf_counter() - start
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return self._too_large(item, error), time.perf_counter() - start
        decode = time.perf_counter() - start
        try:
            return self.segmenter.prepare(image, prompts), decode
        except Exception as error:  # a failure of the segmenter, told when its turn comes
            return self._too_large(item, error) if is_out_of_memory(error) else error, decode

    def write(self, item: Item, found: Found, corrected: NDArray[np.bool_] | None = None) -> Entry | Exception | str:
        """Write what was found in an image and return its entry in the report; or say why it has none.

        Args:
            item: the image.
            found: in it.
            corrected: its mask (H, W) if a person has corrected it: what they have said is the result.

        Raises:
            DeployError: the output folder cannot be written any more.
        """
        try:
            if isinstance(found, VolumeSegmentation):
                result: Segmentation | VolumeSegmentation = found
            else:
                result = self.segmenter.finish(found)
                if corrected is not None:
                    result = replace(result, mask=corrected, confidence=None, corrected=True)
        except ImageError as error:
            return error
        except Exception as error:
            if os.environ.get("MSFORMER_DEPLOY_DEBUG"):
                raise
            # Full size comes in here: what does not fit is the image.
            return self.reason(error) if is_out_of_memory(error) else error
        try:
            content = self.contents.pop(item)
            return report.write_results(item, self.output, result, self.segmenter, self.wanted, content)
        except DeployError as error:
            return error
        except Exception as error:
            if is_out_of_memory(error):
                return self.reason(error)
            if not isinstance(error, OSError):
                raise
            if error.errno != errno.ENAMETOOLONG:
                raise unwritable(self.output, error) from error
            return "its name is too long for the names of its results; rename it"

    def drop(self, item: Item) -> None:
        """Take note that nothing will be written of an image that was read."""

    def named(self, item: Item, error: Exception) -> str:
        """What to say of a failure, with the name of its image, which some errors have already."""
        reason, name = self.reason(error), printable(item.path)
        return reason if reason.startswith(name) else f"{name}: {reason}"

    def reason(self, error: Exception) -> str:
        """What to say of a failure in the midst of the work, in one line."""
        if is_out_of_memory(error):
            smaller = ", or pass a smaller --batch" if self.batch > 1 else ""
            return f"not enough memory to segment it; make the image smaller, end other programs{smaller}"
        if isinstance(error, DeployError):
            return str(error)
        told = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
        return f"segmenting failed, {told}; MSFORMER_DEPLOY_DEBUG=1 shows the traceback"

    def _too_large(self, item: Item, error: Exception) -> ImageError:
        """The failure of an image that does not fit into memory, which is no failure of the segmenter."""
        failure = ImageError(f"{printable(item.path)}: {self.reason(error)}")
        failure.__cause__ = error
        return failure


def content_of(item: Item, before: list[tuple[int, int] | None]) -> str:
    """The hash of what was just read.

    Args:
        item: whose files were read.
        before: their stamps from before the reading.

    Raises:
        ImageError: a file has changed since, or cannot be read any more.
    """
    content = content_sha256(item)
    if stamps(item) != before:
        raise ImageError(f"{printable(item.path)}: has changed while it was read; segment it again when it is complete")
    return content


def unwritable(output: Path, error: OSError) -> DeployError:
    """The failure of an output folder that takes no more."""
    return DeployError(
        f"{printable(output)}: cannot be written ({error.strerror}); make room or choose another --output,"
        " then continue with --skip-existing"
    )
