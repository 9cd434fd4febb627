"""Patient, volume and index in the names of slices."""

from __future__ import annotations

import pytest

from msformer_deploy.images.slice_names import SliceName, parse


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("patient001_frame01_slice_0", SliceName("patient001", "patient001_frame01", 0)),
        ("patient001_frame01_slice_012", SliceName("patient001", "patient001_frame01", 12)),
        ("patient001_frame01", SliceName("patient001", "patient001_frame01", None)),
        ("case_7_slice12", SliceName("case_7", "case_7", 12)),
        ("IMD004", SliceName("IMD004", "IMD004", None)),
        ("slice_3", SliceName("slice_3", "slice_3", None)),
        ("p_slice_3b", SliceName("p_slice_3b", "p_slice_3b", None)),
        ("two\nlines_slice_0", None),
        ("", None),
    ],
)
def test_a_name_tells_patient_volume_and_place(stem, expected):
    assert parse(stem) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (r"s(?P<index>\d+)-(?P<patient>p\d+)", SliceName("p17", "p17", 3)),
        (r"s(?P<volume>\d+)-(?P<patient>p\d+)", SliceName("p17", "3", None)),
        (r"(?P<patient>q\d+)", None),
        (r"(?P<patient>x?)s3-p17", None),
    ],
)
def test_names_of_another_kind(names, expected):
    assert parse("s3-p17", names) == expected
