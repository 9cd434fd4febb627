"""What adapting the encoder does to masks of images it has not seen, and how much of it the term against collapse does.

    python benchmarks/pretrain.py --data ../shared/data/ph2 ../shared/data/lung_ct --seeds 3 --json pretrain.json
    python benchmarks/pretrain.py --data ../shared/data/ph2 --collapse

A data set is a folder with images/ and masks/, paired by name. Half of its images teach, the other half judges:
the random encoder of each seed and what it becomes on each data set are judged on all data sets, by the published
protocol and by the label-free mask. Beside them are the two scores that `msformer-deploy pretrain` goes by where there
is no ground truth, and one that it does not go by, the stability under flips; and how the three follow the DSC.

With --collapse the network learns with the term against collapse and without it, and what is told is its own answer
before any refinement: how many labels are in it, and its DSC by the published protocol.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from msformer_deploy import Segmenter
from msformer_deploy.bundle.folder import ModelSizes
from msformer_deploy.images.inputs import Item, discover
from msformer_deploy.images.pairing import pair
from msformer_deploy.images.read import read_image, resize_nearest
from msformer_deploy.images.truth import published_truth
from msformer_deploy.measures.overlap import adjusted_rand_index, overlap, published_mask
from msformer_deploy.models.msformer import MSFormer
from msformer_deploy.pretraining.candidate import candidate
from msformer_deploy.pretraining.images import Split, batches, split
from msformer_deploy.pretraining.judging import contrast, explained
from msformer_deploy.pretraining.settings import PretrainSettings
from msformer_deploy.pretraining.training import Update, adapt, start
from msformer_deploy.registry import SYSTEMS, RefineSettings
from msformer_deploy.segmenter import Segmentation

SYSTEM = SYSTEMS["msformer"].sized()
OWN_ANSWER = RefineSettings(mode="none", steps=0)
COLLAPSE = (4, 16, 48)  # images learned from
RANDOM = "nothing"  # what the random encoder learned from
SCORES = ("contrast", "explained", "flip_stability")

Row = dict[str, Any]


class DataSet:
    """Images of a folder and their masks."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        items = discover([folder / "images"])
        pairs = pair(items, folder / "masks").pairs
        self.masks = {item: pairs[item.path] for item in items if item.path in pairs}

    def halves(self, seed: int) -> Split:
        """Images that teach and images that judge."""
        return split(list(self.masks), 0.5, seed)


def judged(network: MSFormer, masks: Mapping[Item, Path], seed: int, threads: int) -> Iterator[Row]:
    """Every image and its scores, as one record."""
    with TemporaryDirectory() as folder:
        bundle = candidate(network, Path(folder), SYSTEM.name, seed, SYSTEM.preset().refinement)
        segmenter = Segmenter(bundle, backend="torch", device="cpu", threads=threads)
        for item, mask in masks.items():
            image, truth = read_image(item.path), published_truth(mask)
            result = segmenter.segment(image)
            flipped = segmenter.segment(replace(image, pixels=np.ascontiguousarray(image.pixels[:, ::-1])))
            yield {
                "image": item.relative.as_posix(),
                "published": published_dsc(result, truth),
                "label_free": overlap(result.mask, published_truth(mask, None)).dsc,
                "contrast": contrast(result),
                "explained": explained(result),
                "flip_stability": adjusted_rand_index(result.network_labels, flipped.network_labels[:, ::-1]),
            }


def answered(network: MSFormer, masks: Mapping[Item, Path], seed: int, threads: int) -> Iterator[Row]:
    """Every image and what the network itself says of it, without refinement."""
    with TemporaryDirectory() as folder:
        bundle = candidate(network, Path(folder), SYSTEM.name, seed, OWN_ANSWER)
        # The mask is not looked at, and the rules for one take long where there are many clusters.
        segmenter = Segmenter(bundle, backend="torch", device="cpu", threads=threads, foreground_rule="largest")
        for item, mask in masks.items():
            result = segmenter.segment(item.path)
            dsc = published_dsc(result, published_truth(mask))
            yield {"image": item.relative.as_posix(), "labels": result.label_count, "published": dsc}


def published_dsc(result: Segmentation, truth: NDArray[np.bool_]) -> float:
    """By the published protocol, which sees the truth; at the size of the truth."""
    return overlap(published_mask(resize_nearest(result.labels, *truth.shape), truth), truth).dsc


def compare(data: Sequence[DataSet], settings: PretrainSettings, side: int, seed: int, threads: int) -> Iterator[Row]:
    """Records of the images that judge: of the random encoder, and of it adapted to each data set."""
    network = start(sizes_of(side), seed)
    networks = {RANDOM: network}
    for each in data:
        print(f"seed {seed}, {each.name}", flush=True)
        networks[each.name] = adapt(network, batches(each.halves(seed).training, settings, seed), settings, tell)
    for learned_from, encoder in networks.items():
        for each in data:
            held_out = {item: each.masks[item] for item in each.halves(seed).held_out}
            for row in judged(encoder, held_out, seed, threads):
                yield {"data": each.name, "learned_from": learned_from, "seed": seed, **row}


def collapse(data: Sequence[DataSet], settings: PretrainSettings, side: int, seed: int, threads: int) -> Iterator[Row]:
    """Records of the images that judge, after so many images of learning with the term and without it."""
    network = start(sizes_of(side), seed)
    for each in data:
        parts = each.halves(seed)
        held_out = {item: each.masks[item] for item in parts.held_out}
        for weight, count in [
            (0.0, 0),
            *((weight, count) for weight in (0.0, settings.balance_weight) for count in COLLAPSE),
        ]:
            print(f"seed {seed}, {each.name}, weight {weight:g}, {count} images", flush=True)
            now = replace(settings, steps=count // settings.batch, balance_weight=weight)
            adapted = adapt(network, batches(parts.training, now, seed), now, tell)
            for row in answered(adapted, held_out, seed, threads):
                yield {"data": each.name, "weight": weight, "learned_from": count, "seed": seed, **row}


def sizes_of(side: int) -> ModelSizes:
    """The default network at a side."""
    return ModelSizes(side, SYSTEM.width, SYSTEM.clusters, SYSTEM.blocks)


def tell(update: Update) -> None:
    """One line an update, so that a long run is seen to go on."""
    print("  " + ", ".join(f"{name} {value:.3f}" for name, value in update._asdict().items()), flush=True)


def table(rows: Sequence[Row], by: Sequence[str], columns: Sequence[str]) -> str:
    """Means over records that agree in ``by``, as Markdown."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    lines = ["| " + " | ".join([*by, "results", *columns]) + " |", "|" + "---|" * (len(by) + 1 + len(columns))]
    for key, group in groups.items():
        means = [f"{np.mean([row[name] for row in group]):.4f}" for name in columns]
        lines.append("| " + " | ".join([*map(str, key), str(len(group)), *means]) + " |")
    return "\n".join(lines)


def correlations(rows: Sequence[Row]) -> list[Row]:
    """How the change of each score follows that of the DSC, each against the random encoder of the same seed.

    Spearman's rank correlation over images, seeds and adapted encoders of one data set.
    """
    random = {(row["data"], row["seed"], row["image"]): row for row in rows if row["learned_from"] == RANDOM}
    found = []
    for data in dict.fromkeys(row["data"] for row in rows):
        mine = [row for row in rows if row["data"] == data and row["learned_from"] != RANDOM]
        before = [random[row["data"], row["seed"], row["image"]] for row in mine]
        for score in SCORES:
            changes = {
                name: [row[name] - other[name] for row, other in zip(mine, before, strict=True)]
                for name in (score, "label_free", "published")
            }
            ranks = {name: float(spearmanr(changes[score], changes[name])[0]) for name in ("label_free", "published")}
            found.append({"data": data, "score": score, **ranks})
    return found


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1, help="networks and splits, drawn by the seeds from 0 on")
    parser.add_argument("--steps", type=int, default=PretrainSettings.steps)
    parser.add_argument("--train-side", type=int, default=PretrainSettings.side)
    parser.add_argument("--side", type=int, default=SYSTEM.side, help="on which is judged")
    parser.add_argument("--lr", type=float, default=PretrainSettings.lr)
    parser.add_argument("--balance-weight", type=float, default=PretrainSettings.balance_weight)
    parser.add_argument("--collapse", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for every record")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = PretrainSettings(
        side=arguments.train_side,
        steps=arguments.steps,
        lr=arguments.lr,
        balance_weight=arguments.balance_weight,
    )
    data = [DataSet(folder) for folder in arguments.data]
    measure = collapse if arguments.collapse else compare
    rows = [
        row
        for seed in range(arguments.seeds)
        for row in measure(data, settings, arguments.side, seed, arguments.threads)
    ]
    if arguments.collapse:
        print(table(rows, ("data", "weight", "learned_from"), ("labels", "published")))
    else:
        means = ("published", "label_free", *SCORES)
        print(table(rows, ("data", "learned_from", "seed"), means))
        print(table(rows, ("data", "learned_from"), means))
        print(table(correlations(rows), ("data", "score"), ("label_free", "published")))
    if arguments.json is not None:
        told = {"settings": asdict(settings), "side": arguments.side, "blocks": SYSTEM.blocks, "rows": rows}
        arguments.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
