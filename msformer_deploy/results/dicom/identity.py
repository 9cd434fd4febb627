"""Who made a DICOM object, and how it is told from all others.

All UIDs that are not the source's or the standard's are under ``2.25.``, the root for UUIDs. Those of series, objects,
segments and measured objects are new in each run. The device's is the same for one version with one bundle. A node that
answers an archive derives those of series and objects from what they were made of (``dicom_node/answer.py``).

That results are for research is in the description of the series. The element for it, Content Qualification, is in none
of the three kinds of objects that are written (SEG, secondary capture, SR).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydicom.uid import UID

from ...images.dicom.kinds import MANUFACTURER as MANUFACTURER
from ...machine.versions import installed_versions
from ...registry import find_system
from ...terminology import SELF_GUIDED, TRAINED, Concept

# Scanners and workstations count their series up from 1.
SERIES_NUMBERS = {"segmentation": 9101, "overlay": 9102, "measurements": 9103}
# Of all UIDs of this software that are derived from what they name.
_NAMESPACE = uuid.UUID("6f0c5a3e-6d2b-4c1e-9f6e-3a4b8a2d7c15")


@dataclass(frozen=True)
class MadeBy:
    """The software and the bundle that made a result.

    Attributes:
        system: name of the system in the registry.
        bundle_sha256: in hexadecimal digits; identifies the bundle.
        corrected: whether a person has corrected the mask.
        prompted: whether a person has shown with clicks or boxes what to segment.
    """

    system: str
    bundle_sha256: str
    corrected: bool = False
    prompted: bool = False

    @property
    def model(self) -> str:
        """The system's title."""
        return find_system(self.system).title

    @property
    def by_person(self) -> bool:
        """Whether a person had a part in the mask."""
        return self.corrected or self.prompted

    @property
    def origin(self) -> str:
        """How the mask came to be, in at most the 64 characters of DICOM's content description."""
        if self.corrected:
            return "Corrected by a person"
        if self.prompted:
            return "Found with clicks or boxes of a person"
        return "Found without a person; look at it before you use it"

    @property
    def family(self) -> Concept:
        """How the system finds what it segments."""
        return TRAINED if find_system(self.system).trained else SELF_GUIDED

    @cached_property
    def version(self) -> str:
        """Version of this package."""
        return installed_versions(["msformer-deploy"]).get("msformer-deploy", "unknown")

    @property
    def serial(self) -> str:
        """What DICOM has as the device's serial number."""
        return f"bundle {self.bundle_sha256[:16]}"

    @property
    def device_uid(self) -> UID:
        """The same for all results of one version with one bundle."""
        return derived_uid(f"{self.version} {self.bundle_sha256}")

    def equipment(self) -> dict[str, Any]:
        """The arguments of highdicom's objects that say what made them."""
        return {
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": self.model,
            "software_versions": self.version,
            "device_serial_number": self.serial,
        }


def new_uid() -> UID:
    """A UID that nobody else has, under the root that the standard keeps for UUIDs.

    The UIDs of a run's objects are never derived from their content. Two runs with the same result differ in date, time
    and version, and an archive that has one of two objects with one UID drops the other silently.
    """
    return UID(f"2.25.{uuid.uuid4().int}")


def derived_uid(text: str) -> UID:
    """A UID that is always the same for one text, under the same root."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, text).int}")


def series(kind: str) -> dict[str, Any]:
    """The arguments of highdicom's objects for a new series of one object.

    Args:
        kind: a key of ``SERIES_NUMBERS``.
    """
    return {
        "series_instance_uid": new_uid(),
        "series_number": SERIES_NUMBERS[kind],
        "sop_instance_uid": new_uid(),
        "instance_number": 1,
        "series_description": f"msformer-deploy {kind}, research use only",
    }
