"""Coded terms of what is segmented and measured, as pure data: what other programs understand without our names.

Each code was looked up together with its meaning. A code that cannot be looked up is not in these tables.

- SNOMED CT, DCM and UCUM: the tables of DICOM's part 16, in pydicom's ``sr.codedict``; a test compares them. They lack
  ``41329004`` (Polyp: DICOM has that of the colon alone), which is in the value set "eHDSI Morphologic Abnormality"
  8.1.0 of HL7 Europe, made from SNOMED CT International of February 2025, and the units ``ml`` and ``{pixels}``, which
  DICOM uses without listing them.
- RadLex: these tables have few of its codes, and none of ours. ``RID38780`` (lesion) and ``RID1301`` (lung): Kahn,
  "Annotation of Figures from the Biomedical Imaging Literature", Academic Radiology 21, 2014. ``RID1301``, ``RID1389``
  (right ventricle) and ``RID1392`` (left ventricle) are among the anatomic terms of the RECIST template of ePAD
  (Stanford). ``RID1392`` is in the Common Data Elements of ACR and RSNA too (RDES35). Polyp and myocardium have none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Concept:
    """A term of a coding scheme.

    Attributes:
        value: its code.
        scheme: DICOM's designator of the scheme: ``SCT`` (SNOMED CT), ``DCM``, ``UCUM`` (units) or ``RADLEX``.
        meaning: the code's text in that scheme.
    """

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class SegmentTerm:
    """What a segment is.

    Attributes:
        category: of :attr:`type`, from DICOM's context group 7150.
        type: what is segmented.
        colour: to show it in, RGB in 0..255.
        radlex: the same term in RadLex; None where we know of none.
    """

    category: Concept
    type: Concept
    colour: tuple[int, int, int]
    radlex: Concept | None = None


_TISSUE = Concept("85756007", "SCT", "Tissue")
_ANATOMY = Concept("91723000", "SCT", "Anatomical Structure")
_ABNORMAL = Concept("49755003", "SCT", "Morphologically Abnormal Structure")

# By the names that masks and classes of trained systems have; the background is no segment. "object" is all that a
# segmentation without labels knows, so its term claims no organ and no disease.
SEGMENTS: dict[str, SegmentTerm] = {
    "object": SegmentTerm(_TISSUE, _TISSUE, (0, 255, 170)),
    "lesion": SegmentTerm(
        _ABNORMAL, Concept("52988006", "SCT", "Lesion"), (255, 120, 60), Concept("RID38780", "RADLEX", "lesion")
    ),
    "lung": SegmentTerm(
        _ANATOMY, Concept("39607008", "SCT", "Lung"), (90, 190, 255), Concept("RID1301", "RADLEX", "lung")
    ),
    "polyp": SegmentTerm(_ABNORMAL, Concept("41329004", "SCT", "Polyp"), (255, 220, 70)),
    "right ventricle": SegmentTerm(
        _ANATOMY,
        Concept("53085002", "SCT", "Right ventricle"),
        (90, 120, 255),
        Concept("RID1389", "RADLEX", "right ventricle"),
    ),
    "myocardium": SegmentTerm(_ANATOMY, Concept("49848007", "SCT", "Left Ventricle Myocardium"), (110, 220, 90)),
    "left ventricle": SegmentTerm(
        _ANATOMY,
        Concept("87878005", "SCT", "Left ventricle"),
        (240, 80, 80),
        Concept("RID1392", "RADLEX", "left ventricle"),
    ),
}

# By the names of the quantities; from DICOM's context groups 7470 to 7472.
MEASUREMENTS: dict[str, Concept] = {
    "area": Concept("42798000", "SCT", "Area"),
    "perimeter": Concept("131191004", "SCT", "Perimeter"),
    "longest diameter": Concept("103339001", "SCT", "Long axis"),
    "perpendicular diameter": Concept("131189007", "SCT", "Perpendicular Axis"),
    "volume": Concept("118565006", "SCT", "Volume"),
}

# By their codes. Counts of pixels are for images whose spacing is not known.
UNITS: dict[str, Concept] = {
    unit: Concept(unit, "UCUM", meaning)
    for unit, meaning in {
        "mm": "mm",
        "mm2": "square millimeter",
        "mm3": "cubic millimeter",
        "ml": "milliliter",
        "{pixels}": "pixels",
    }.items()
}

# What a report of measurements is of, and who observed.
IMAGING = Concept("363679005", "SCT", "Imaging procedure")
DEVICE = Concept("121007", "DCM", "Device")

# How a system finds what it segments, from DICOM's context group 7162.
SELF_GUIDED = Concept("123107", "DCM", "Cluster Analysis")
TRAINED = Concept("123110", "DCM", "Artificial Intelligence")
