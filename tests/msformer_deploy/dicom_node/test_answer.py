"""The answer to a series: what ``run`` would make of its folder, with UIDs that are derived."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")
import programs
from ct_series import write_ct_series
from dicom_files import cr, enhanced_ct, write
from pydicom import dcmread
from pydicom.uid import UID

from msformer_deploy import Segmenter
from msformer_deploy.bundle.folder import Bundle, load_bundle
from msformer_deploy.dicom_node import durable
from msformer_deploy.dicom_node.answer import Answerer, Unanswerable
from msformer_deploy.images.seg import read_segmentation_labels
from msformer_deploy.results.formats import Wanted
from msformer_deploy.segmenter import resolve_refinement

SEG = Wanted(("seg",), seg=True)
BOTH = Wanted(("seg", "sc"), seg=True)


@pytest.fixture(scope="module")
def segmenter(tiny_bundle: Bundle) -> Segmenter:
    return Segmenter(tiny_bundle, settings=resolve_refinement(tiny_bundle))


@pytest.fixture
def series(tmp_path: Path) -> Path:
    write_ct_series(tmp_path / "ab.1")
    return tmp_path / "ab.1"


@pytest.mark.slow
def test_it_is_what_run_writes(segmenter: Segmenter, series: Path, tmp_path: Path, segment: Callable) -> None:
    (path,) = Answerer(segmenter, SEG)(series)
    assert segment(tmp_path / "ab.1", "--format", "seg").code == 0
    ours, of_run = dcmread(path), dcmread(tmp_path / "out" / "ab.1.seg.dcm")
    assert ours.PixelData == of_run.PixelData
    assert ours.SeriesDescription == of_run.SeriesDescription == "msformer-deploy segmentation, research use only"
    for keyword in ("StudyInstanceUID", "PatientID", "FrameOfReferenceUID", "ReferencedSeriesSequence"):
        assert ours[keyword] == of_run[keyword]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert ours[keyword] != of_run[keyword]
        assert ours[keyword].value.startswith("2.25.")
    assert ours.file_meta.MediaStorageSOPInstanceUID == ours.SOPInstanceUID


@pytest.mark.slow
@pytest.mark.needs_debian("dicom3tools")
def test_objects_are_valid(segmenter: Segmenter, series: Path) -> None:
    found = Answerer(segmenter, BOTH)(series.rename(series.with_name("ab.2")))
    assert [path.name for path in found] == ["1.seg.dcm", "2.sc.dcm"]
    assert [programs.errors(path) for path in found] == [[], []]
    assert dcmread(found[0]).SeriesDescription.endswith("research use only, revision 2")


def uids(segmenter: Segmenter, series: Path, wanted: Wanted = BOTH) -> list[tuple[UID, UID]]:
    shutil.rmtree(series / "results", ignore_errors=True)
    found = [dcmread(path) for path in Answerer(segmenter, wanted)(series)]
    return [(each.SeriesInstanceUID, each.SOPInstanceUID) for each in found]


@pytest.mark.slow
def test_uids_depend_on_what_it_is_made_of_alone(
    segmenter: Segmenter, series: Path, tiny_bundle: Bundle, bundle_copy: Path
) -> None:
    first = uids(segmenter, series)
    assert len({uid for pair in first for uid in pair}) == 4
    again = series.rename(series.with_name("cd.1"))
    moved = load_bundle(bundle_copy)
    assert uids(Segmenter(moved, settings=resolve_refinement(moved)), again) == first
    assert uids(segmenter, again, Wanted(("seg", "sc"), seg=True, structure="lung")) != first
    other = Segmenter(tiny_bundle, settings=resolve_refinement(tiny_bundle), foreground_rule="largest")
    assert uids(other, again) != first
    next(again.glob("*.dcm")).rename(again / "other.dcm")  # files are called by hashes of the images' UIDs
    assert uids(segmenter, again) != first


@pytest.mark.slow
def test_what_is_there_is_kept_and_what_a_killed_node_left_is_not(segmenter: Segmenter, series: Path) -> None:
    (series / ".work").mkdir()
    (series / ".work" / "half").touch()
    answerer = Answerer(segmenter, SEG)
    (path,) = answerer(series)
    before = path.read_bytes()
    assert answerer(series) == [path]
    assert path.read_bytes() == before
    assert {each.name for each in series.iterdir() if each.suffix != ".dcm"} == {"results"}


def test_results_are_synced_before_their_folder_has_its_name(
    segmenter: Segmenter, series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    for name in ("sync_file", "sync_folder", "rename"):
        real = getattr(durable, name)
        monkeypatch.setattr(
            durable, name, lambda path, *to, _n=name, _r=real: (order.append(f"{_n} {path.name}"), _r(path, *to))[1]
        )
    Answerer(segmenter, SEG)(series)
    assert order[0] == "sync_file ab.1.seg.dcm"
    last = order.index("rename .work")
    assert order[last - 2 : last] == ["sync_folder .work"] * 2, "after the object got its name, and after the rest went"


def test_each_image_without_a_position_has_an_answer(segmenter: Segmenter, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4000, (36, 28)).astype("<u2")
    (tmp_path / "ab.1").mkdir()
    for number in (1, 2):
        write(tmp_path / "ab.1" / f"{number}.dcm", cr(number, Rows=36, Columns=28, PixelData=pixels.tobytes()))
    found = Answerer(segmenter, SEG)(tmp_path / "ab.1")
    assert [path.name for path in found] == ["1.seg.dcm", "2.seg.dcm"]
    assert len({dcmread(path).SOPInstanceUID for path in found}) == 2
    references = [read_segmentation_labels(path).references for path in found]
    assert {each.instance for (each,) in references if each is not None} == {"2.25.2222.1", "2.25.2222.2"}


def test_an_object_of_several_frames(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "ab.1").mkdir()
    pixels = np.random.default_rng(0).integers(0, 4000, (3, 36, 28)).astype("<u2")
    write(tmp_path / "ab.1" / "1.dcm", enhanced_ct(3, Rows=36, Columns=28, PixelData=pixels.tobytes()))
    (path,) = Answerer(segmenter, SEG)(tmp_path / "ab.1")
    assert dcmread(path).SOPInstanceUID.startswith("2.25.")


def test_a_gap_is_a_reason(segmenter: Segmenter, series: Path) -> None:
    write_ct_series(series, slices=5)
    (series / "1-4.dcm").unlink()
    with pytest.raises(Unanswerable, match=r"gap|apart|distance|missing") as raised:
        Answerer(segmenter, SEG)(series)
    assert "QQMARK" not in str(raised.value)
    assert not (series / "results").exists()


def test_nothing_to_segment_is_a_reason(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "ab.1").mkdir()
    with pytest.raises(Unanswerable, match="no images"):
        Answerer(segmenter, SEG)(tmp_path / "ab.1")


def test_a_full_disk_is_none(segmenter: Segmenter, series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from msformer_deploy.images import draw

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    answerer = Answerer(segmenter, SEG)
    with monkeypatch.context() as patch:
        patch.setattr(draw, "write_overlay", full)
        with pytest.raises(OSError, match="No space left on device"):
            answerer(series)
    assert len(answerer(series)) == 1
