"""Slices become volumes in the order of their indices; one that is not whole is named and never scored."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msformer_deploy.bundle.folder import Bundle, ModelSizes
from msformer_deploy.errors import DeployError, UsageError
from msformer_deploy.evaluation import joined as module
from msformer_deploy.evaluation.joined import Joined, classes_of, require_classes
from msformer_deploy.images.pairing import Pairing, pair_folders
from msformer_deploy.measures.volumes import score_volume
from msformer_deploy.registry import RefineSettings

SHAPE = (12, 10)
IDS = (1, 2, 3)


def pairing(*stems: str, no_mask: tuple[str, ...] = (), no_image: tuple[str, ...] = ()) -> Pairing:
    return Pairing(
        {Path("images", f"{stem}.png"): Path("masks", f"{stem}.png") for stem in stems},
        tuple(Path("images", f"{stem}.png") for stem in no_mask),
        tuple(Path("masks", f"{stem}.png") for stem in no_image),
    )


def plane(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, shape, np.uint8)


def by_id(truth: np.ndarray) -> dict[int | None, np.ndarray]:
    return {each: truth == each for each in IDS}


def feed(volumes: Joined, *stems: str) -> None:
    """Slices whose prediction and truth follow from their name."""
    for stem in stems:
        volumes.add(Path("images", f"{stem}.png"), plane(number(stem)), by_id(plane(number(stem) + 1)))


def number(stem: str) -> int:
    return sum(map(ord, stem)) * 100


def stacked(*stems: str, offset: int = 0) -> np.ndarray:
    return np.stack([plane(number(stem) + offset) for stem in stems])


@pytest.mark.parametrize("order", list(itertools.permutations((0, 1, 2))), ids=str)
def test_slices_are_in_the_order_of_their_indices_whatever_the_order_of_files(order, monkeypatch):
    stems = ("p_slice_8", "p_slice_9", "p_slice_10")  # as text the last one would be first
    seen = []

    def score(name: str, prediction: np.ndarray, truth: np.ndarray, *given: object, **more: object) -> list[object]:
        seen.append((name, prediction, truth))
        return []

    monkeypatch.setattr(module, "score_volume", score)
    shuffled = [stems[each] for each in order]
    feed(Joined(pairing(*shuffled), IDS), *shuffled)
    ((name, prediction, truth),) = seen
    assert name == "p"
    np.testing.assert_array_equal(prediction, stacked(*stems))
    np.testing.assert_array_equal(truth, stacked(*stems, offset=1))


@pytest.mark.parametrize("spacing", [None, (7.0, 1.5, 2.5)])
@pytest.mark.parametrize("classes", [IDS, (3, 1)])
def test_scores_are_those_of_the_whole_volume_for_the_classes_asked_for(spacing, classes):
    pytest.importorskip("monai.metrics")
    stems = ("p_slice_1", "p_slice_2", "q_slice_0", "q_slice_1")
    volumes = Joined(pairing(*stems), classes, spacing)
    for stem in stems:
        truth = plane(number(stem) + 1)
        volumes.add(Path("images", f"{stem}.png"), plane(number(stem)), {each: truth == each for each in classes})
    expected = [
        score
        for name, own in (("p", stems[:2]), ("q", stems[2:]))
        for score in score_volume(name, stacked(*own), stacked(*own, offset=1), 4, spacing)
        if score.class_id in classes
    ]
    assert len(expected) == 2 * len(classes)
    assert volumes.scores == expected
    assert (volumes.left_out, volumes.absent_classes) == ({}, [])


def test_a_mask_without_an_image_cuts_its_volume_whatever_its_suffix():
    stems = ("p_slice_0", "q_slice_0")
    pairs = pairing(*stems)
    for mask in ("p_slice_1.nii.gz", "p_slice_1_mask.nii.gz", "p_slice_1.seg.nrrd"):
        volumes = Joined(replace(pairs, masks_without_image=(Path("masks", mask),)), IDS, distances=False)
        assert volumes.left_out == {"p": f"{mask} has no image"}


def test_all_that_is_not_background_is_class_1():
    volumes = Joined(pairing("p_slice_0"), distances=False)
    inside = np.zeros(SHAPE, bool)
    inside[:4] = True
    volumes.add(Path("images", "p_slice_0.png"), inside[::-1].astype(np.uint8), {None: inside})
    (score,) = volumes.scores
    assert (score.class_id, score.dice, score.hd95) == (1, 0, None)
    assert (score.prediction_empty, score.truth_empty) == (False, False)


def test_a_volume_is_scored_with_its_last_slice_and_no_map_of_it_is_kept():
    stems = ("a_slice_0", "b_slice_0", "a_slice_1", "b_slice_1")
    volumes = Joined(pairing(*stems), IDS, distances=False)
    found = []
    for stem in stems:
        feed(volumes, stem)
        found.append(({each.volume for each in volumes.scores}, sorted(volumes._waiting)))
    assert found == [(set(), ["a", "b"]), (set(), ["a", "b"]), ({"a"}, ["b"]), ({"a", "b"}, [])]


def test_volumes_are_told_by_name_whichever_was_whole_first():
    stems = ("b_slice_0", "a_slice_0")
    volumes = Joined(pairing(*stems), IDS, distances=False)
    feed(volumes, *stems)
    assert [each.volume for each in volumes.scores] == ["a", "a", "a", "b", "b", "b"]


@pytest.mark.parametrize("start", [0, 1, 37])
def test_where_indices_begin_does_not_matter(start):
    stems = [f"p_slice_{index}" for index in range(start, start + 3)]
    volumes = Joined(pairing(*stems), IDS, distances=False)
    feed(volumes, *stems)
    assert len(volumes.scores) == 3


NOT_WHOLE = {
    "gap": (pairing("p_slice_0", "p_slice_1", "p_slice_3"), "there is no slice between 1 and 3"),
    "wide gap": (pairing("p_slice_0", "p_slice_999999999999"), "there is no slice between 0 and 999999999999"),
    "twice": (pairing("p_slice_0", "p_slice_1", "p_slice_01"), "slice 1 is there twice, p_slice_1.png and"),
    "no mask": (pairing("p_slice_0", "p_slice_1", no_mask=("p_slice_2",)), "p_slice_2.png has no mask"),
    "no image": (pairing("p_slice_0", "p_slice_1", no_image=("p_slice_2",)), "p_slice_2.png has no image"),
    "no image of a mask called so": (
        pairing("p_slice_0", "p_slice_1", no_image=("p_slice_2_mask",)),
        "p_slice_2_mask.png has no image",
    ),
    "no slice paired": (pairing(no_mask=("p_slice_0", "p_slice_1")), "p_slice_0.png has no mask"),
    "no index": (pairing("p"), "the name of p.png tells no slice index"),
    "no index beside slices": (pairing("p_slice_0", "p"), "the name of p.png tells no slice index"),
}


@pytest.mark.parametrize(("broken", "reason"), NOT_WHOLE.values(), ids=NOT_WHOLE)
def test_what_names_tell_to_be_cut_is_left_out_before_anything_is_judged(broken, reason):
    told = []
    whole = {Path("images", "q_slice_0.png"): Path("masks", "q_slice_0.png")}
    volumes = Joined(
        replace(broken, pairs={**broken.pairs, **whole}), IDS, distances=False, tell=lambda *each: told.append(each)
    )
    assert list(volumes.left_out) == ["p"]
    assert volumes.left_out["p"].startswith(reason)
    assert told == list(volumes.left_out.items())
    feed(volumes, *(path.stem for path in broken.pairs), "q_slice_0")
    assert {each.volume for each in volumes.scores} == {"q"}
    assert len(told) == 1


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_slice_that_failed_leaves_its_volume_out_and_no_other(failing):
    stems = ("p_slice_0", "p_slice_1", "p_slice_2", "q_slice_0")
    told = []
    volumes = Joined(pairing(*stems), IDS, distances=False, tell=lambda *each: told.append(each))
    for index, stem in enumerate(stems):
        if index == failing:
            volumes.fail(Path("images", f"{stem}.png"))
            assert "p" not in volumes._waiting, "nothing of it is kept"
        else:
            feed(volumes, stem)
    assert {each.volume for each in volumes.scores} == {"q"}
    assert told == [("p", f"p_slice_{failing}.png failed")]


def test_one_reason_is_told_of_a_volume():
    told = []
    volumes = Joined(pairing("p_slice_0", "p_slice_1", "q_slice_0"), IDS, tell=lambda *each: told.append(each))
    for index in (0, 1):
        volumes.fail(Path("images", f"p_slice_{index}.png"))
    assert told == [("p", "p_slice_0.png failed")]


def test_one_that_was_scored_is_taken_back_when_a_slice_fails_later():
    volumes = Joined(pairing("p_slice_0", "q_slice_0"), IDS, distances=False)
    feed(volumes, "p_slice_0", "q_slice_0")
    volumes.fail(Path("images", "p_slice_0.png"))
    assert {each.volume for each in volumes.scores} == {"q"}


def test_slices_of_different_sizes_are_no_volume():
    stems = ("p_slice_0", "p_slice_1", "p_slice_2", "q_slice_0")
    volumes = Joined(pairing(*stems), IDS, distances=False)
    feed(volumes, "p_slice_0")
    volumes.add(Path("images", "p_slice_1.png"), plane(0, (10, 12)), by_id(plane(0, (10, 12))))
    feed(volumes, "p_slice_2", "q_slice_0")
    assert volumes.left_out == {"p": "its slices are of different sizes, 10 x 12 and 12 x 10 pixels"}
    assert {each.volume for each in volumes.scores} == {"q"}


def test_what_is_left_over_and_no_slice_cuts_no_volume():
    found = pairing("p_slice_0", no_mask=("p",), no_image=("notes", "p_slice_0b"))
    volumes = Joined(found, IDS, distances=False)
    feed(volumes, "p_slice_0")
    assert volumes.left_out == {}
    assert len(volumes.scores) == 3


@pytest.mark.parametrize("found", [pairing("a", "b"), pairing("a", no_mask=("c",))], ids=["paired", "and left over"])
def test_without_any_index_it_is_a_slip(found):
    with pytest.raises(UsageError, match=r"no file name contains the number of a slice; rename files to NAME_slice_0"):
        Joined(found, IDS)


def test_none_that_could_be_scored_ends_it_at_once_and_none_that_was_later():
    told = []
    with pytest.raises(DeployError, match="none of the 2 volumes could be scored; nothing is written"):
        Joined(pairing("p_slice_0", "p_slice_2", "q"), IDS, tell=lambda *each: told.append(each[0]))
    assert told == ["p", "q"]
    with pytest.raises(DeployError, match="none of the 2 volumes"):
        Joined(pairing("a", no_mask=("p_slice_0",)), IDS)  # one name tells an index, so names are not what is wrong
    volumes = Joined(pairing("p_slice_0"), IDS)
    volumes.require_any()
    volumes.fail(Path("images", "p_slice_0.png"))
    with pytest.raises(DeployError, match="none of the 1 volumes"):
        volumes.require_any()


def test_a_class_in_no_truth_is_told():
    volumes = Joined(pairing("p_slice_0", "q_slice_0"), IDS, distances=False)
    one = np.full(SHAPE, 1, np.uint8)
    for stem in ("p_slice_0", "q_slice_0"):
        volumes.add(Path("images", f"{stem}.png"), np.full(SHAPE, 2, np.uint8), by_id(one))
    assert volumes.absent_classes == [2, 3]


def test_names_are_printable():
    volumes = Joined(pairing("p\x1b_slice_0", "p\x1b_slice_2", "q_slice_0"), IDS)
    assert list(volumes.left_out) == ["p\\x1b"]


class TestClasses:
    @staticmethod
    def bundle(system: str, clusters: int) -> Bundle:
        sizes = ModelSizes(side=32, width=8, clusters=clusters, blocks=1)
        return Bundle(Path("bundle"), {"system": system}, sizes, RefineSettings(mode="none", steps=0))

    @pytest.mark.parametrize(
        ("system", "clusters", "asked", "expected"),
        [
            ("mcsc", 4, (), (1, 2, 3)),
            ("mcsc", 4, (3, 1), (3, 1)),
            ("mcsc", 2, (), (1,)),
            ("m2snet", 2, (), ()),
            ("msnet", 2, (), ()),
            ("m2snet", 2, (1,), (1,)),
        ],
    )
    def test_those_asked_for_or_all_but_background(self, system, clusters, asked, expected):
        assert classes_of(self.bundle(system, clusters), asked) == expected

    @pytest.mark.parametrize(
        ("system", "clusters", "asked", "part"),
        [
            ("mcsc", 4, (1, 0), "drop --class 0"),
            ("mcsc", 4, (4,), "the bundle has no class 4,"),
            ("m2snet", 2, (255,), "the bundle has no class 255,"),
            ("msformer", 2, (), "the clusters of msformer have no fixed meaning"),
        ],
    )
    def test_what_cannot_be_scored(self, system, clusters, asked, part):
        with pytest.raises(UsageError, match=part):
            classes_of(self.bundle(system, clusters), asked)

    @pytest.mark.parametrize(
        ("system", "fine"), [("msformer", False), ("s3net", False), ("m2snet", True), ("mcsc", True)]
    )
    def test_only_trained_systems_have_classes(self, system, fine):
        if fine:
            require_classes(system)
        else:
            with pytest.raises(UsageError, match=f"the clusters of {system} have no fixed meaning"):
                require_classes(system)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["p_slice_0.png", "p_slice_1.png", "._p_slice_1.png", "._p_slice_2.png", "__MACOSX/p_slice_0.png"], None),
        (["p_slice_0.png", "._p_slice_1.png", "p_slice_2.png"], "there is no slice between 0 and 2"),
        (["p_slice_0.png", "Thumbs.db", "p_slice_1.png", "p_slice_3.png"], "there is no slice between 1 and 3"),
        (["a/p_slice_0.png", "b/p_slice_0.png"], "slice 0 is there twice, {0}/a/p_slice_0.png and {0}/b/p_slice_0.png"),
    ],
)
def test_hidden_files_are_no_slices(tmp_path, names, reason):
    for folder in ("images", "masks"):
        for name in [*names, "q_slice_0.png"]:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(path))
    volumes = Joined(pair_folders(tmp_path / "images", tmp_path / "masks"), IDS)
    assert volumes.left_out == ({} if reason is None else {"p": reason.format(tmp_path / "images")})
