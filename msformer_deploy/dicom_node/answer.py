"""The answer to a series: the DICOM objects that ``run --format seg,sc`` would write of its folder.

Their UIDs are derived from the images, the software, the bundle and the options. So a series that is segmented twice,
because the node was killed in between, has one answer, and an archive that gets it twice keeps one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..errors import DeployError
from ..images.inputs import Item, discover
from ..images.quiet import silent
from ..machine.versions import installed_versions
from ..results import report
from ..results.batch import BatchRun
from ..results.dicom.identity import derived_uid
from ..results.formats import OF_DICOM, Wanted
from ..segmenter import Segmenter
from ..volume_segmenter import VolumeSegmenter
from . import durable
from .spool import RESULTS, results_of, revision_of

_WORK = ".work"  # hidden, so that it is passed over as an input


class Unanswerable(Exception):
    """A series cannot be segmented, now or later; the message is one line."""


class Answerer:
    """Segments series, one at a time.

    Args:
        segmenter: open.
        wanted: how images are read, and the formats that are sent, which are DICOM's.

    Raises:
        UsageError, BackendUnavailable, BundleError: the segmenter cannot segment volumes.
    """

    def __init__(self, segmenter: Segmenter, wanted: Wanted) -> None:
        self._segmenter, self._wanted = segmenter, wanted
        self._volumes = VolumeSegmenter(segmenter)
        self._volumes.open()

    def __call__(self, series: Path) -> list[Path]:
        """Segment a series and write its answer into its folder; what is there from before is kept.

        Args:
            series: a folder of the spool.

        Returns:
            the files of the answer, which are on the disk.

        Raises:
            Unanswerable: its images give no result.
            OSError: a file cannot be written.
        """
        results, work = series / RESULTS, series / _WORK
        if not results.is_dir():
            shutil.rmtree(work, ignore_errors=True)  # of a node that was killed
            answers = self._made(series, work)
            for path in work.iterdir():
                if path not in answers:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            durable.sync_folder(work)  # what is removed must not come back as a result
            durable.rename(work, results)
        return results_of(series)

    def _made(self, series: Path, work: Path) -> set[Path]:
        try:
            items = discover([series], volumes=True)
        except DeployError as error:
            raise Unanswerable(str(error)) from error
        work.mkdir(mode=0o700)
        failures: list[str] = []
        batch = BatchRun(
            self._segmenter, items, work, 1, False, True, 1, failures.append, self._wanted, volumes=self._volumes
        )
        try:
            batch.run()
        except DeployError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from error
            raise Unanswerable(failures[0] if failures else str(error)) from error
        if failures:
            raise Unanswerable(failures[0])
        made: set[Path] = set()
        for item, record in zip(items, batch.records(), strict=True):
            for kind, files in record["files"].items():
                if kind in OF_DICOM:
                    (name,) = files
                    self._name(work / name, kind, item, revision_of(series))
                    made.add(durable.rename(work / name, work / f"{len(made) + 1}.{kind}.dcm"))
        return made

    def _name(self, path: Path, kind: str, item: Item, revision: int) -> None:
        """Give an object the UIDs that are derived from what it was made of, and the number of a later revision."""
        from pydicom import dcmread

        settings = report.settings_of(self._segmenter, self._wanted, item.kind)
        del settings["bundle"]  # its place, which decides nothing
        images = sorted(each.stem for each in item.files or (item.path,))  # hashes of their UIDs
        made_of = json.dumps([kind, installed_versions()["msformer-deploy"], settings, images], sort_keys=True)
        with silent():
            dataset = dcmread(path)
            dataset.SeriesInstanceUID = derived_uid(f"series {made_of}")
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = derived_uid(f"object {made_of}")
            if revision > 1:
                dataset.SeriesDescription = f"{dataset.SeriesDescription}, revision {revision}"
            dataset.save_as(path, enforce_file_format=True)
        durable.sync_file(path)
