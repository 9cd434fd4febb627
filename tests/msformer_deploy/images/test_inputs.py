import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from msformer_deploy.errors import UsageError, printable
from msformer_deploy.images import inputs
from msformer_deploy.images.inputs import Item, PassedOver, collisions, discover, stem_of


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(items: list[Item]) -> list[str]:
    return [item.relative.as_posix() for item in items]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", ["a.png", "sub/b.JPG", "no suffix"])
def test_outputs_keep_the_source_name_whole(name: str) -> None:
    outputs = Item(Path("/anywhere/x"), Path(name)).outputs(Path("out"))
    assert outputs.labels == Path(f"out/{name}.labels.png")
    assert outputs.mask == Path(f"out/{name}.mask.png")
    assert outputs.overlay == Path(f"out/{name}.overlay.png")
    assert outputs.record == Path(f"out/{name}.json")


def test_a_file_goes_under_its_own_name_and_a_folder_keeps_its_tree(folder: Path, output: Path, tmp_path: Path) -> None:
    single = tmp_path / "elsewhere" / "z.png"
    touch(single, folder / "b.png", folder / "a" / "deep" / "c.tif", folder / "a.png")
    items = discover([single, folder], output)
    assert names(items) == ["z.png", "a/deep/c.tif", "a.png", "b.png"]
    assert [item.path for item in items] == [single, *(folder / item.relative for item in items[1:])]


def test_arguments_keep_their_order_and_folders_are_sorted(folder: Path, output: Path, tmp_path: Path) -> None:
    last, first = tmp_path / "zz.png", tmp_path / "aa.png"
    touch(last, first, *(folder / f"{name}.png" for name in "cab"))
    assert names(discover([last, folder, first], output)) == ["zz.png", "a.png", "b.png", "c.png", "aa.png"]


@pytest.mark.parametrize("suffix", [*inputs.SUFFIXES, ".PNG", ".Tiff"])
def test_every_suffix_is_found_in_any_case(folder: Path, output: Path, suffix: str) -> None:
    touch(folder / f"a{suffix}", folder / "notes.txt", folder / "png", folder / f"a{suffix}.json")
    assert names(discover([folder], output)) == [f"a{suffix}"]


def test_hidden_entries_are_passed_over_but_not_a_hidden_argument(tmp_path: Path, output: Path) -> None:
    hidden = tmp_path / ".cache"
    touch(hidden / "a.png", hidden / ".b.png", hidden / ".git" / "c.png")
    assert names(discover([hidden], output)) == ["a.png"]


HIDDEN = (
    *("._a.png", ".DS_Store", ".b.png", "Thumbs.db", "thumbs.DB", "desktop.ini", "Icon\r"),
    *("__MACOSX/a.png", "__MACOSX/deep/._a.png", "more/__MACOSX/c.png", "lost+found/a.png", "@eaDir/a.png"),
)


@pytest.mark.parametrize("name", HIDDEN)
def test_what_systems_leave_behind_is_none_of_the_users_files(folder: Path, name: str) -> None:
    touch(folder / "a.png", folder / name)
    passed_over = PassedOver()
    assert names(discover([folder], passed_over=passed_over)) == ["a.png"]
    assert passed_over.counts == {}
    assert passed_over.line() is None


@pytest.mark.parametrize(
    ("present", "counts", "line"),
    [
        (["a.HEIC", "b.heic", "c.txt"], {".heic": 2, ".txt": 1}, "2 .heic, 1 .txt; convert .heic to PNG or TIFF"),
        (
            ["s.nii.gz", "t.NRRD"],
            {".nii.gz": 1, ".nrrd": 1},
            "1 .nii.gz, 1 .nrrd; .nii.gz, .nrrd are volumes, which this command does not read; export slices as PNG or"
            " TIFF",
        ),
        (["a.b.c.Tar.GZ"], {".tar.gz": 1}, "1 .tar.gz; unpack .tar.gz"),
        (["more/a.csv", "v1.2.csv"], {".csv": 2}, "2 .csv"),
        (
            ["IM0001", "1.2.840.10008.17", "2.16.5.99"],
            {"without suffix": 3},
            "3 without suffix; name files without suffix on the command line to try them",
        ),
        (["a.two words", "b.\x1b[31m"], {"without suffix": 2}, None),
        (
            [f"a.x{index}" for index in range(10)],
            {f".x{index}": 1 for index in range(10)},
            ", ".join(f"1 .x{index}" for index in range(8)) + ", 2 of other kinds",
        ),
    ],
)
def test_other_files_are_counted_by_kind(folder: Path, present: list[str], counts: dict[str, int], line: str) -> None:
    touch(folder / "a.png", *(folder / name for name in present))
    passed_over = PassedOver()
    assert names(discover([folder, folder], passed_over=passed_over)) == ["a.png"]
    assert passed_over.counts == counts
    told = passed_over.line()
    assert told is not None
    assert told == f"passed over: {line}" if line else told.isprintable()
    (folder / "a.png").unlink()
    with pytest.raises(UsageError) as caught:
        discover([folder])
    assert str(caught.value).endswith(f"in it; {told}")


@pytest.mark.parametrize(
    ("volumes", "listed"), [(True, "hdf5, nii, nii.gz, nrrd, nhdr, mha, mhd, DICOM"), (False, "hdf5, DICOM")]
)
def test_a_folder_without_images_is_refused_with_what_is_read(folder: Path, volumes: bool, listed: str) -> None:
    touch(folder / "a.txt")
    with pytest.raises(UsageError, match=rf"no images \(png, .*, {listed}\) in it; passed over: 1 .txt$"):
        discover([folder], volumes=volumes)


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no such files")
@pytest.mark.parametrize("name", ["a.png", "a.h5", "a.txt", "a"])
def test_what_is_no_file_is_passed_over_and_never_opened(folder: Path, name: str) -> None:
    touch(folder / "b.png")
    os.mkfifo(folder / name)
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.relpath(folder / "c.png"))  # a short path, as sockets have no long ones
    server.close()
    (folder / "d.png").symlink_to("/dev/zero")
    passed_over = PassedOver()
    assert names(discover([folder], passed_over=passed_over)) == ["b.png"]
    assert passed_over.counts == {"special file": 3}


def test_a_folder_that_cannot_be_entered_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(folder / "a.png", folder / "closed" / "b.png")
    access = os.access
    # Modes do not stop root.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed" and access(path, mode))
    with pytest.raises(UsageError, match="closed: cannot be listed: Permission denied; make it readable"):
        discover([folder])


@pytest.mark.parametrize(("name", "kept"), [("b.png", True), ("b", False), ("b.txt", False)])
def test_a_link_into_a_closed_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, kept: bool) -> None:
    touch(folder / "a.png", folder / name)
    status = Path.stat

    def guarded(path: Path, **options: bool) -> os.stat_result:
        if path == folder / name:
            raise PermissionError(13, "Permission denied", str(path))
        return status(path, **options)

    monkeypatch.setattr(Path, "stat", guarded)
    passed_over = PassedOver()
    found = discover([folder], passed_over=passed_over)
    assert names(found) == (["a.png", "b.png"] if kept else ["a.png"])
    assert passed_over.counts == ({} if kept else {"unreachable link": 1})


def test_a_folder_named_like_an_image_is_a_folder(folder: Path, output: Path) -> None:
    touch(folder / "series.png" / "a.png")
    assert names(discover([folder], output)) == ["series.png/a.png"]


@pytest.mark.parametrize("name", ["missing.png", "scan.dcm", "a b'c\".png", "ü.png", "two\nlines.png"])
def test_a_file_argument_is_kept_whatever_it_is(tmp_path: Path, output: Path, name: str) -> None:
    assert discover([tmp_path / name], output) == [Item(tmp_path / name, Path(name))]


def test_the_output_folder_inside_an_input_folder_is_passed_over(folder: Path) -> None:
    output = folder / "results"
    touch(folder / "a.png", output / "a.png.mask.png", output / "sub" / "b.png.mask.png")
    assert names(discover([folder], output)) == ["a.png"]
    (folder / "link").symlink_to(output)
    assert names(discover([folder], output)) == ["a.png"]


def test_results_of_an_earlier_run_are_passed_over_unless_they_are_named(folder: Path, output: Path) -> None:
    from msformer_deploy.results import measurements, merge, report

    assert {report.REPORT, report.GALLERY, measurements.FILE} == inputs.OF_RUN
    touch(folder / "a.png")
    before = discover([folder], output)
    earlier = folder / "earlier"
    touch(earlier / "sub" / "a.png.mask.png")
    for name in inputs.OF_RUN:
        assert len(discover([folder], output)) == len(before) + 1  # any one of the three names may be a user's
        (earlier / name).touch()
    passed_over = PassedOver()
    assert discover([folder], output, passed_over) == before
    assert passed_over.line() == "passed over: 1 results folder"
    assert len(discover([earlier], output)) == 1
    for name in inputs.OF_RUN:
        (earlier / name).unlink()
    (earlier / merge.shard_file(2, 16)).touch()
    assert discover([folder], output) == before
    (earlier / merge.shard_file(2, 16)).rename(earlier / "report.json")
    assert len(discover([folder])) == len(before) + 1  # as masks, which earlier results may be


def test_the_output_folder_may_hold_the_input_folder(folder: Path) -> None:
    touch(folder / "a.png")
    assert names(discover([folder], folder.parent)) == ["a.png"]


def test_segmenting_the_output_folder_is_refused(folder: Path) -> None:
    touch(folder / "a.png")
    with pytest.raises(UsageError, match="is also the output folder") as caught:
        discover([folder], folder.parent / "." / folder.name)
    assert str(caught.value).startswith(str(folder))


@pytest.mark.parametrize("name", ["empty", "two\nlines"])
def test_a_folder_without_images_is_named(tmp_path: Path, output: Path, name: str) -> None:
    touch(tmp_path / name / "notes.txt", tmp_path / name / ".hidden.png")
    with pytest.raises(UsageError) as caught:
        discover([tmp_path / name], output)
    kinds = "png, jpg, jpeg, jpe, jfif, bmp, tif, tiff, webp, gif, jp2, j2k, avif, h5, hdf5, DICOM"
    expected = f"{printable(tmp_path / name)}: no images ({kinds}) in it; passed over: 1 .txt"
    assert str(caught.value) == expected
    assert "\n" not in expected


def test_an_unreadable_folder_is_named(folder: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(folder / "a.png", folder / "closed" / "b.png")
    iterdir = Path.iterdir

    def guarded(path: Path) -> Iterator[Path]:  # file modes do not stop root
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", guarded)
    with pytest.raises(UsageError) as caught:
        discover([folder], output)
    assert str(caught.value) == f"{folder / 'closed'}: cannot be listed: Permission denied; make it readable"


def test_a_file_given_twice_is_taken_once_where_it_came_first(folder: Path, output: Path, tmp_path: Path) -> None:
    touch(folder / "a.png", folder / "b.png")
    link = tmp_path / "link.png"
    link.symlink_to(folder / "b.png")
    unresolved = folder / ".." / folder.name / "a.png"
    assert names(discover([link, folder, unresolved, folder], output)) == ["link.png", "a.png"]


def test_links_to_files_and_folders_are_followed(folder: Path, output: Path, tmp_path: Path) -> None:
    touch(tmp_path / "store" / "a.png", tmp_path / "other" / "b.png")
    (folder / "files").symlink_to(tmp_path / "store")
    (folder / "b.png").symlink_to(tmp_path / "other" / "b.png")
    assert names(discover([folder], output)) == ["b.png", "files/a.png"]


def test_a_dangling_link_is_kept_for_its_failure_to_be_reported(folder: Path, output: Path) -> None:
    (folder / "gone.png").symlink_to(folder / "nowhere")
    (folder / "self.png").symlink_to(folder / "self.png")
    assert names(discover([folder], output)) == ["gone.png", "self.png"]


def test_loops_of_links_end(folder: Path, output: Path) -> None:
    touch(folder / "sub" / "a.png")
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "sub" / "here").symlink_to(".")
    assert names(discover([folder], output)) == ["sub/a.png"]


def test_links_across_do_not_multiply_the_walk(folder: Path, output: Path) -> None:
    folders = [folder / f"f{index:02}" for index in range(20)]
    for each in folders:
        touch(each / "a.png")
    for each in folders:
        for other in folders:
            (each / f"to-{other.name}").symlink_to(other)
    assert len(discover([folder], output)) == len(folders)


@pytest.mark.slow
def test_a_tree_deeper_than_the_call_stack(folder: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = [Path(".")]
    monkeypatch.chdir(folder)
    for _ in range(1200):
        chain.append(chain[-1] / "d")
        chain[-1].mkdir()
    image = chain[-1] / "a.png"
    image.touch()
    try:
        assert [len(item.relative.parts) for item in discover([Path(".")], output)] == [1201]
    finally:  # pytest's own removal is recursive
        image.unlink()
        for path in reversed(chain[1:]):
            path.rmdir()


def test_no_collisions_within_a_folder(folder: Path, output: Path) -> None:
    touch(folder / "a.png", folder / "a.jpg", folder / "sub" / "a.png", folder / "a.png.mask.png")
    assert collisions(discover([folder], output)) == {}


@pytest.mark.parametrize(
    ("first", "second"),
    [("a.png", "a.png"), ("a.png", "A.PNG"), ("sub/a.png", "Sub/a.png"), ("\u00fc.png", "u\u0308.png")],
)
def test_collisions_point_to_the_earlier_item(first: str, second: str) -> None:
    one, two = Item(Path("d1/x"), Path(first)), Item(Path("d2/x"), Path(second))
    other, three = Item(Path("d2/y"), Path("b.png")), Item(Path("d3/x"), Path(second))
    assert collisions([one, other, two, three]) == {two: one, three: one}
    outputs = [
        {str(path).casefold() for path in vars(item.outputs(Path("out"))).values()} for item in (one, other, two)
    ]
    assert not outputs[0] & outputs[1]
    assert outputs[0] == outputs[2] or not first.isascii()


def test_folders_with_equal_trees_collide(tmp_path: Path, output: Path) -> None:
    touch(tmp_path / "d1" / "a.png", tmp_path / "d2" / "a.png", tmp_path / "d2" / "b.png")
    items = discover([tmp_path / "d1", tmp_path / "d2"], output)
    assert names(items) == ["a.png", "a.png", "b.png"]
    assert collisions(items) == {items[1]: items[0]}


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("x.png", "x"),
        ("v.nii.gz", "v"),
        ("v.NII.GZ", "v"),
        ("v.nii", "v"),
        ("v.nii.gz.mask.nii.gz", "v.nii.gz.mask"),
        ("v.seg.nrrd", "v.seg"),
        ("x.dcm.seg.dcm", "x.dcm.seg"),
        ("1.2.840.10008.7", "1.2.840.10008.7"),
        ("1.2.840.10008.7.dcm", "1.2.840.10008.7"),
        ("IM0001", "IM0001"),
        ("scan.foo", "scan"),
        ("x.tar.gz", "x.tar"),
    ],
)
def test_the_stem_of_a_name(name: str, stem: str) -> None:
    assert stem_of(name) == stem


def test_a_file_that_is_used_after_all_is_not_passed_over(tmp_path: Path) -> None:
    passed_over = PassedOver()
    for name in ("a.txt", "b.txt"):
        passed_over.add(tmp_path / name, ".txt")
    passed_over.discard([tmp_path / "a.txt", tmp_path / "other"])
    assert passed_over.counts == {".txt": 1}
