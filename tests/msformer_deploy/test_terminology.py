from __future__ import annotations

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

from pydicom.sr.codedict import codes

from msformer_deploy.registry import SYSTEMS
from msformer_deploy.terminology import MEASUREMENTS, SEGMENTS, SELF_GUIDED, TRAINED, UNITS, Concept


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
    SELF_GUIDED,
    TRAINED,
]
# Morphologic abnormality "Polyp" of SNOMED CT: DICOM has none but the polyp of the colon, and ours may be elsewhere.
# And two units of UCUM that DICOM uses without listing them.
BEYOND_DICOM = {"41329004", "ml", "{pixels}"}


@pytest.mark.parametrize(
    "concept", [each for each in CONCEPTS if each.value not in BEYOND_DICOM], ids=lambda each: each.value
)
def test_codes_and_meanings_are_those_of_dicom(concept: Concept) -> None:
    assert concept.meaning in known(concept.scheme)[concept.value]


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


def test_radlex_codes_name_the_same() -> None:
    for term in SEGMENTS.values():
        if term.radlex is not None:
            assert term.radlex.scheme == "RADLEX" and term.radlex.value.startswith("RID")
            assert term.radlex.meaning == term.type.meaning.lower()
