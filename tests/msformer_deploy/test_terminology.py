from __future__ import annotations

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

from pydicom.sr.codedict import codes

from msformer_deploy.registry import SYSTEMS
from msformer_deploy.terminology import DEVICE, IMAGING, MEASUREMENTS, SEGMENTS, SELF_GUIDED, TRAINED, UNITS, Concept


def known(scheme: str) -> dict[str, set[str]]:
    """Meanings by code of a scheme in pydicom's dictionary, which is made from DICOM's part 16."""
    found: dict[str, set[str]] = {}
    for keyword in getattr(codes, scheme).dir():
        code = getattr(getattr(codes, scheme), keyword)
        found.setdefault(code.value, set()).add(code.meaning)
    return found


CONCEPTS = [
    *(concept for term in SEGMENTS.values() for concept in (term.category, term.type)),
    *MEASUREMENTS.values(),
    *UNITS.values(),
    IMAGING,
    DEVICE,
    SELF_GUIDED,
    TRAINED,
]
# See the module's docstring.
BEYOND_DICOM = {"41329004", "ml", "{pixels}"}


@pytest.mark.parametrize(
    "concept", [each for each in CONCEPTS if each.value not in BEYOND_DICOM], ids=lambda each: each.value
)
def test_codes_and_meanings_are_those_of_dicom(concept: Concept) -> None:
    assert concept.meaning in known(concept.scheme)[concept.value]


def test_what_is_beyond_dicom_is_not_in_its_tables() -> None:
    """Else the exception has to go, and the code is compared as all others are."""
    for concept in CONCEPTS:
        assert concept.value not in BEYOND_DICOM or concept.value not in known(concept.scheme)


def test_categories_and_measurements_are_of_the_groups_that_dicom_names() -> None:
    def values(group: str) -> set[str]:
        return {getattr(getattr(codes, group), keyword).value for keyword in getattr(codes, group).dir()}

    assert {term.category.value for term in SEGMENTS.values()} <= values("cid7150")
    assert {each.value for each in MEASUREMENTS.values()} <= values("cid7470") | values("cid7471") | values("cid7472")
    assert {SELF_GUIDED.value, TRAINED.value} <= values("cid7162")


def test_the_classes_of_all_trained_systems_have_terms() -> None:
    classes = {name for system in SYSTEMS.values() for name in system.classes}
    assert classes - {"background"} <= SEGMENTS.keys()
    assert "background" not in SEGMENTS


def test_segments_differ_in_colour_and_type() -> None:
    assert len({term.colour for term in SEGMENTS.values()}) == len(SEGMENTS)
    assert len({term.type for term in SEGMENTS.values()}) == len(SEGMENTS)


# As the sources in the module's docstring have them; no table of RadLex can be had.
RADLEX = {"lesion": "RID38780", "lung": "RID1301", "right ventricle": "RID1389", "left ventricle": "RID1392"}


def test_radlex_codes_are_those_that_were_looked_up() -> None:
    found = [term.radlex for term in SEGMENTS.values() if term.radlex is not None]
    assert {each.meaning: each.value for each in found} == RADLEX
    assert {each.scheme for each in found} == {"RADLEX"}
    for term in SEGMENTS.values():
        assert term.radlex is None or term.radlex.meaning == term.type.meaning.lower()
