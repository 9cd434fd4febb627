"""What keeps a slice from being read is said as it is, and only damage is called damage."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from msformer_deploy.errors import ImageError
from msformer_deploy.images import hdf5
from msformer_deploy.images.read import read_image
from msformer_deploy.training.semi_supervised.slices import find_slices

h5py = pytest.importorskip("h5py")
VALUES = np.random.default_rng(0).random((20, 16), dtype=np.float32)
UNKNOWN_FILTER = 32999  # registered to nobody


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = VALUES
    return tmp_path / "a.h5"


def refusal(path: Path, name: str = "image") -> str:
    with pytest.raises(ImageError) as caught, hdf5.opened(path) as file:
        hdf5.plane(file, name, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
def test_built_in_filters_are_read(tmp_path, compression):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", data=VALUES, compression=compression)
    with hdf5.opened(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(hdf5.plane(file, "image", tmp_path / "a.h5"), VALUES)


class TestAFileThatAnotherProcessWrites:
    @pytest.fixture
    def writer(self, path):
        """Another process that has the file open for writing."""
        script = f"import h5py; file = h5py.File({str(path)!r}, 'r+'); print(flush=True); input()"
        command = [sys.executable, "-c", script]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            yield process
            process.kill()

    def test_it_is_locked(self, path, writer):
        for read in (refusal, lambda path: refused(lambda: read_image(path)), lambda path: refused_slices(path.parent)):
            message = read(path)
            assert "is locked, because another process writes it; wait" in message
            assert "damaged" not in message

    def test_a_writer_that_died(self, path):
        script = (
            f"import h5py, os; file = h5py.File({str(path)!r}, 'r+', libver='latest'); file.swmr_mode = True;"
            " file.flush(); os._exit(0)"
        )
        with h5py.File(path, "w", libver="latest") as file:
            file["image"] = VALUES
        subprocess.run([sys.executable, "-c", script], check=True)
        message = refusal(path)
        assert "is marked as being written; wait until" in message
        assert "h5clear" in message


def refused(read) -> str:
    with pytest.raises(ImageError) as caught:
        read()
    return str(caught.value)


def refused_slices(folder: Path) -> str:
    return refused(lambda: find_slices(folder))


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (PermissionError(errno.EACCES, "denied"), "permission denied; make the file readable"),
        (OSError(errno.ENOLCK, "unable to lock file"), "cannot be locked on this file system"),
        (OSError(errno.ENOSYS, "unable to lock file"), "HDF5_USE_FILE_LOCKING=FALSE"),
        (OSError(errno.EIO, "gone"), "cannot be read: Input/output error; check the path and the disk"),
        (OSError("Can't read data (required filter 'blosc' is not registered)"), "needs an HDF5 filter"),
    ],
)
def test_what_the_system_says(path, monkeypatch, error, part):
    def fail(*_: object) -> None:  # modes do not stop root, and disks seldom fail
        raise error

    monkeypatch.setattr(h5py, "File", fail)
    message = refusal(path)
    assert part in message
    assert "damaged" not in message


@pytest.mark.parametrize("kept", [0, 4, 100, 1000, -1])
def test_what_is_cut_short_is_damaged(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    assert refusal(path).endswith(": cannot be read as HDF5, damaged or cut short; copy it again")


def test_what_is_no_hdf5_is_damaged(path):
    path.write_bytes(b"no HDF5" * 100)
    assert "damaged or cut short" in refusal(path)


def test_what_is_not_there(tmp_path):
    assert "no such file" in refusal(tmp_path / "nowhere.h5")
    (tmp_path / "link.h5").symlink_to("nowhere.h5")
    assert "no such file" in refusal(tmp_path / "link.h5")


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no named pipes")
def test_a_pipe_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    assert "is not a regular file" in refusal(tmp_path / "pipe.h5")


def test_a_newer_format(path):
    content = bytearray(path.read_bytes())
    content[8] = 99  # version of the superblock, after the signature
    path.write_bytes(content)
    assert "newer HDF5 version" in refusal(path)


@pytest.mark.parametrize("chunk", [(4, 4), (20, 16)])
def test_a_filter_that_is_not_installed_is_named(tmp_path, chunk):
    path = tmp_path / "a.h5"
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk(chunk)
    created.set_filter(UNKNOWN_FILTER, h5py.h5z.FLAG_OPTIONAL, (1,))
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple(VALUES.shape)
        h5py.h5d.create(file.id, b"image", h5py.h5t.NATIVE_FLOAT, space, created)
    message = refusal(path)
    assert "'image' is compressed by" in message
    assert f"HDF5 filter {UNKNOWN_FILTER}), which is not installed; pip install hdf5plugin" in message
    assert "damaged" not in message


class TestDataSets:
    @pytest.mark.parametrize(
        ("names", "told"),
        [
            ([], "it is empty"),
            (["img", "seg"], "it has img, seg;"),
            ([f"n{index}" for index in range(9)], "it has n0, n1, n2, n3, n4, ...;"),
        ],
    )
    def test_a_name_that_is_missing(self, path, names, told):
        with h5py.File(path, "w") as file:
            for name in names:
                file[name] = VALUES
        assert f"has no data set 'image' of one slice (H, W), {told}" in refusal(path)
        assert told in refused_slices(path.parent)
        assert told in refused(lambda: read_image(path))

    @pytest.mark.parametrize(("shape", "told"), [((4, 9, 9), "of shape (4, 9, 9)"), ((9,), "of shape (9,)")])
    def test_another_shape(self, path, shape, told):
        with h5py.File(path, "w") as file:
            file["image"] = np.zeros(shape)
        assert f"'image' is not one slice (H, W) but {told}" in refusal(path)

    def test_a_group(self, path):
        with h5py.File(path, "w") as file:
            file["image/inner"] = VALUES
        assert "'image' is not one slice (H, W) but a group" in refusal(path)

    @pytest.mark.parametrize(
        ("link", "told"),
        [
            (h5py.ExternalLink("gone.h5", "data"), "a link to data in the file gone.h5"),
            (h5py.ExternalLink("b.h5", "gone"), "a link to gone in the file b.h5"),
            (h5py.SoftLink("/gone"), "a link to /gone"),
        ],
    )
    def test_links_to_nothing(self, path, link, told):
        with h5py.File(path.with_name("b.h5"), "w") as file:
            file["image"] = VALUES
        with h5py.File(path, "w") as file:
            file["image"] = link
        assert f"{told}, which cannot be opened" in refusal(path)
        assert told in refused_slices(path.parent)
        assert told in refused(lambda: read_image(path))

    def test_an_external_link_is_followed(self, path):
        with h5py.File(path.with_name("b.h5"), "w") as file:
            file["image"] = h5py.ExternalLink("a.h5", "image")
        with hdf5.opened(path.with_name("b.h5")) as file:
            np.testing.assert_array_equal(hdf5.plane(file, "image", path), VALUES)

    def test_values_in_a_file_that_is_gone(self, path):
        with h5py.File(path, "w") as file:
            file.create_dataset("image", VALUES.shape, "f4", external=[("gone.raw", 0, VALUES.nbytes)])
        message = refusal(path)
        assert "its values are in another file, which is missing" in message
        assert "damaged" not in message

    @pytest.mark.parametrize(("source", "data_set"), [("gone.h5", "image"), ("b.h5", "gone"), ("b.h5", "image")])
    def test_a_virtual_data_set_never_gives_zeros_for_values_that_are_gone(
        self, path, source, data_set, tmp_path_factory, monkeypatch
    ):
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
        with h5py.File(path.with_name("b.h5"), "w") as file:
            file["image"] = VALUES
        layout = h5py.VirtualLayout(VALUES.shape, "f4")
        layout[:] = h5py.VirtualSource(source, data_set, VALUES.shape)
        with h5py.File(path, "w") as file:
            file.create_virtual_dataset("image", layout)
        if (source, data_set) == ("b.h5", "image"):
            with hdf5.opened(path) as file:
                np.testing.assert_array_equal(hdf5.plane(file, "image", path), VALUES)
        else:
            told = f"values of 'image' are in {data_set} of the file {source}, which cannot be read"
            assert told in refusal(path)
