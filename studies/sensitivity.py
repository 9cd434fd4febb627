"""How much the label-free mask hangs on each number that chooses it: DSC with one constant changed at a time.

    python studies/sensitivity.py --data ../shared/data/ph2 ... [--seeds 0] [--only MODULE.NAME ...]
        [--json FILE] [--markdown FILE] [--picture FILE]

The constants are all upper-case numbers of the modules in MODULES, read from them when this is run; each is multiplied
by every one of FACTORS, whole numbers rounded and moved by at least one. The default preset makes the label map of each
image and seed once; where a constant changes what the network sees, the image is encoded again.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from ablation import DEFAULT, Case, Task, tasks_of, variations
from numpy.typing import NDArray
from script import exit_code, tell

from msformer_deploy.errors import UsageError
from msformer_deploy.foreground import borders, rules
from msformer_deploy.foreground.frame import without_frame
from msformer_deploy.foreground.view import View
from msformer_deploy.images.read import network_input, read_image, resize_nearest
from msformer_deploy.images.truth import published_truth
from msformer_deploy.measures.overlap import overlap

# Of msformer_deploy: what chooses the mask.
MODULES = (
    "rules",
    "dermoscopy",
    "lung_ct",
    "endoscopy",
    "thresholding",
    "confidence",
    "colour",
    "mucosa",
    "view",
    "frame",
    "borders",
    "morphology",
)
FACTORS = (0.5, 0.75, 1.0, 1.33, 2.0)
SHOWN = 0.1  # of DSC: the ends of the picture's colours
LEAST = 5e-4  # of DSC: less is no change

Number = int | float


class Constant(NamedTuple):
    """A number in a module."""

    module: str
    name: str
    value: Number

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    def times(self, factor: float) -> Number:
        """What it becomes; a whole number stays one, and is another unless the factor is 1."""
        if isinstance(self.value, float) or factor == 1:
            return type(self.value)(self.value * factor)
        rounded = round(self.value * factor)
        return rounded if rounded != self.value else self.value + (1 if factor > 1 else -1)


def module_of(name: str) -> ModuleType:
    """One of MODULES."""
    return import_module(f"msformer_deploy.foreground.{name}")


def constants_of(names: Sequence[str] = MODULES) -> list[Constant]:
    """All constants of modules, but for those that they import from another."""
    return [
        Constant(name, constant, value)
        for name in names
        for constant, value in vars(module_of(name)).items()
        if constant.isupper() and type(value) in (int, float) and constant not in imported(name)
    ]


def imported(name: str) -> dict[str, str]:
    """What a module imports by name from those beside it, and from which."""
    tree = ast.parse(inspect.getsource(module_of(name)))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module]
    return {alias.asname or alias.name: str(node.module) for node in nodes for alias in node.names}


@contextmanager
def changed(constant: Constant, value: Number, names: Sequence[str] = MODULES) -> Iterator[None]:
    """The constant with another value, in its module and in those that import it."""
    homes = [constant.module, *(name for name in names if imported(name).get(constant.name) == constant.module)]
    try:
        for home in homes:
            setattr(module_of(home), constant.name, value)
        forget(names)
        yield
    finally:
        for home in homes:
            setattr(module_of(home), constant.name, constant.value)
        forget(names)


def forget(names: Sequence[str]) -> None:
    """Empty the caches of modules: what was computed with another constant is no more true."""
    for name in names:
        for value in vars(module_of(name)).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


class Prepared:
    """An image under one seed, whose label map is made once for each thing the network may see."""

    def __init__(self, source: str, task: Task) -> None:
        self.source = source
        self._case = Case(read_image(task.image), published_truth(task.mask, None), task.seed)
        self._default = variations()[DEFAULT]
        self._pixels = network_input(self._case.image, self._default.encoding.sizes.side)
        self._labels: dict[bytes, NDArray[np.integer]] = {}

    def dsc(self) -> float:
        """Of the label-free mask, with the constants as they are now."""
        case = self._case
        view = View(network_input(case.image, borders.SIDE))
        drawn = borders.redraw(self._label_map(view), view)
        mask = rules.choose(rules.parse_rule("auto"), drawn, view)
        return overlap(resize_nearest(mask, case.image.height, case.image.width), case.truth).dsc

    def _label_map(self, view: View) -> NDArray[np.integer]:
        seen = without_frame(self._pixels, view).tobytes()
        if seen not in self._labels:
            self._labels[seen] = self._default.label_map(self._case)
            self._case.forget()
        return self._labels[seen]


Means = dict[str, float]  # DSC by data set


def means_of(images: Sequence[Prepared]) -> Means:
    """Over images and seeds; NaN where a constant is impossible."""
    found: dict[str, list[float]] = {}
    for image in images:
        try:
            score = image.dsc()
        except Exception as error:  # whatever it is that a constant out of its range breaks
            print(f"  impossible: {error}", file=sys.stderr)
            score = float("nan")
        found.setdefault(image.source, []).append(score)
    return {source: float(np.mean(scores)) for source, scores in found.items()}


def measure(images: Sequence[Prepared], constants: Sequence[Constant]) -> list[dict[str, Any]]:
    """For every constant its values by factor, and DSC at each by data set."""
    rows = []
    unchanged = means_of(images)
    for constant in constants:
        values = [constant.times(factor) for factor in FACTORS]
        known: dict[Number, Means] = {constant.value: unchanged}
        for value in values:
            if value not in known:
                with changed(constant, value):
                    known[value] = means_of(images)
        rows.append({"constant": str(constant), "values": values, "dsc": [known[value] for value in values]})
        print(f"{constant} = {constant.value}: {worst_of(rows[-1]):+.4f}", flush=True)
    return rows


def worst_of(row: dict[str, Any]) -> float:
    """The largest loss of DSC on any data set."""
    base = row["dsc"][FACTORS.index(1)]
    return min(0.0, *(means[source] - base[source] for means in row["dsc"] for source in base))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A row per constant and data set it matters to; a column per factor, with the value where it is a whole number."""
    sources = list(rows[0]["dsc"][0])
    base = rows[0]["dsc"][FACTORS.index(1)]
    told = ", ".join(f"{source} {base[source]:.3f}" for source in sources)
    header = ["constant", "value", "data set", *(f"× {factor:g}" for factor in FACTORS if factor != 1)]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        for source, each in moved_by(row).items():
            cells = [cell(row, index, difference) for index, difference in enumerate(each) if FACTORS[index] != 1]
            lines.append([f"`{row['constant']}`", f"{row['values'][FACTORS.index(1)]:g}", source, *cells])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    idle = [row["constant"] for row in rows if is_idle(row)]
    rest = f"\nLess than {LEAST:g} on every data set: {', '.join(f'`{name}`' for name in idle)}.\n" if idle else ""
    return f"Change of the label-free DSC (unchanged: {told}); values of whole numbers in brackets.\n\n{table}\n{rest}"


def moved_by(row: dict[str, Any]) -> dict[str, list[float]]:
    """Change of DSC at every factor, of the data sets where there is any."""
    base = row["dsc"][FACTORS.index(1)]
    changes = {source: [means[source] - base[source] for means in row["dsc"]] for source in base}
    return {source: each for source, each in changes.items() if any(not abs(one) < LEAST for one in each)}


def is_idle(row: dict[str, Any]) -> bool:
    """Whether a constant changes nothing on any data set."""
    return not moved_by(row)


def cell(row: dict[str, Any], index: int, difference: float) -> str:
    """A difference, with the value that made it where that is not the factor's exactly."""
    value = row["values"][index]
    told = "impossible" if math.isnan(difference) else f"{difference:+.3f}"
    return f"{told} ({value})" if isinstance(value, int) else told


def draw(rows: Sequence[dict[str, Any]], seeds: Sequence[int], path: Path) -> None:
    """A heat map: constants by factors, a panel for each data set, the worst constant first, without idle ones."""
    from matplotlib.figure import Figure

    rows = sorted([row for row in rows if not is_idle(row)] or rows, key=worst_of)
    sources = list(rows[0]["dsc"][0])
    factors = [factor for factor in FACTORS if factor != 1]
    figure = Figure((2.9 * len(sources) + 3.0, 0.26 * len(rows) + 1.7), dpi=110, layout="constrained")
    for plot, source in zip(figure.subplots(1, len(sources), squeeze=False, sharey=True)[0], sources, strict=True):
        base = rows[0]["dsc"][FACTORS.index(1)][source]
        values = np.array([[row["dsc"][FACTORS.index(factor)][source] - base for factor in factors] for row in rows])
        picture = plot.imshow(values, cmap="RdBu", vmin=-SHOWN, vmax=SHOWN, aspect="auto")
        for (place, column), value in np.ndenumerate(values):
            told = "–" if math.isnan(value) else f"{value:+.3f}" if abs(value) >= LEAST else "·"
            colour = "white" if abs(value) > 0.6 * SHOWN else "black" if abs(value) >= LEAST else "#999999"
            plot.text(column, place, told, ha="center", va="center", fontsize=8, color=colour)
        plot.set_title(f"{source}, DSC {base:.3f}", fontsize=10)
        plot.set_xticks(range(len(factors)), [f"× {factor:g}" for factor in factors])
        plot.set_yticks(range(len(rows)), [f"{row['constant']} = {row['values'][FACTORS.index(1)]:g}" for row in rows])
        plot.tick_params(length=0, labelsize=8)
        plot.spines[:].set_visible(False)
    figure.colorbar(picture, ax=figure.axes, label="change of the label-free DSC", shrink=0.5, extend="both")
    told = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    figure.suptitle(f"Each constant multiplied, all else unchanged; {told}", fontsize=11)
    figure.savefig(path, metadata={"Software": None})


def asked(only: Sequence[str] | None) -> list[Constant]:
    """The constants to change.

    Raises:
        UsageError: one is unknown.
    """
    known = {str(each): each for each in constants_of()}
    unknown = [name for name in only or () if name not in known]
    if unknown:
        raise UsageError(f"constant {unknown[0]!r} is unknown; choose of {', '.join(known)}")
    return [known[name] for name in only or known]


def main() -> int:
    """Measure, print the table; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--only", nargs="+", metavar="MODULE.NAME")
    parser.add_argument("--limit", type=int, help="judge at most so many images of a data set")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--picture", type=Path, help="a .png")
    arguments = parser.parse_args()
    return exit_code(run, arguments)


def run(arguments: argparse.Namespace) -> None:
    """What was asked for."""
    constants = asked(arguments.only)
    tasks = tasks_of(arguments.data, arguments.seeds, arguments.limit)
    torch.set_num_threads(arguments.threads)
    images = [Prepared(source, task) for source, group in tasks.items() for task in group]
    rows = measure(images, constants)
    tell(markdown(rows), {"seeds": arguments.seeds, "rows": rows}, arguments)
    if arguments.picture:
        draw(rows, arguments.seeds, arguments.picture)


if __name__ == "__main__":
    sys.exit(main())
