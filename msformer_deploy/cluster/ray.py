"""``run --ray``: the run on a Ray cluster. Paths go in, and actors that hold a loaded segmenter write the results."""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BackendUnavailable, DeployError, UsageError, printable
from ..machine.cores import usable_cores
from ..machine.extras import require_extra
from ..results import report
from ..results.batch import BatchRun, GivenUp
from ..results.merge import differing, joined
from .destination import Destination

if TYPE_CHECKING:
    from ..images.inputs import Item
    from ..results.formats import Wanted
    from ..segmenter import Segmenter

LOCAL = "local"
CONNECT_SECONDS = 5.0
MAX_BLOCK = 16  # inputs that a worker does at a time, and that are done again if it dies


@dataclass(frozen=True)
class Order:
    """What a worker has to do, whatever its inputs are.

    Attributes:
        open_segmenter: opens the segmenter; called once in each worker.
        place: where results go.
        wanted: what is written.
        batch: images per call of the graph.
        skip_existing: keep results that exist.
        replace: remove results that exist.
        clashes: of :func:`..images.inputs.collisions` among all inputs.
        folder: where relative paths begin.
        seen: a path that the caller sees, by which a worker checks that it sees the inputs; None if there is none.
        mark: a file at the place, by which it checks that it has the same.
    """

    open_segmenter: Callable[[], Segmenter]
    place: Path | str
    wanted: Wanted
    batch: int
    skip_existing: bool
    replace: bool
    clashes: Mapping[Item, Item]
    folder: Path
    seen: Path | None
    mark: str


@dataclass(frozen=True)
class Size:
    """What each worker takes of the cluster.

    Attributes:
        cpus: number of cores.
        gpus: number of GPUs, which may be a fraction.
    """

    cpus: int
    gpus: float


class Worker:
    """A loaded segmenter in a process of the cluster.

    An error of its own never leaves it: Ray would start it again without end. It is in what it returns.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._failure: DeployError | None = None
        self._last: BatchRun | None = None
        try:
            self._see()
            self._destination = Destination(order.place)
            self._segmenter = order.open_segmenter()
            self._segmenter.require_batch(order.batch)
        except Exception as error:
            self._failure = _of_worker("cannot start", error)

    def _see(self) -> None:
        """Go where the caller is, and see that the inputs and the place of the results are there.

        Raises:
            UsageError: they are not.
        """
        order = self._order
        try:
            os.chdir(order.folder)
        except OSError as error:
            if order.seen is None or not order.seen.is_absolute():
                raise _unseen(order.folder) from error
        if order.seen is not None and not os.path.lexists(order.seen):
            raise _unseen(order.seen)
        if not Destination(order.place).has(order.mark):
            raise UsageError(
                f"{printable(str(order.place))}: the machine {socket.gethostname()} does not see what is written there;"
                " choose an --output that all machines share"
            )

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[bytes]]:
        """Segment some inputs.

        Args:
            rows: ``item``, a pickled input for each, and ``position``, its number among all.

        Returns:
            one row ``done``, which :func:`_unpacked` reads.
        """
        positions, items = list(map(int, rows["position"])), [pickle.loads(each) for each in rows["item"]]
        found, failure = (None, self._failure) if self._failure is not None else self._segment(items)
        return {"done": [pickle.dumps((positions, found, failure))]}

    def _segment(self, items: Sequence[Item]) -> tuple[dict[str, Any] | None, DeployError | None]:
        order, failure = self._order, None
        try:
            with self._destination.folder() as folder:
                if order.skip_existing:
                    self._destination.stand_in(items, folder)
                batch_run = BatchRun(
                    self._segmenter,
                    items,
                    folder,
                    order.batch,
                    order.skip_existing,
                    quiet=True,
                    writers=1,
                    complain=lambda _: None,  # the caller says it
                    wanted=order.wanted,
                    clashes=order.clashes,
                    before=self._last,
                )
                self._last = batch_run
                try:
                    batch_run.run()
                except GivenUp as error:
                    failure = error
                records = list(map(_kept_or_failed, batch_run.records()))
                self._send(folder, items, records)
                made = report.build(records, self._segmenter, batch_run.seconds, wanted=order.wanted)
        except Exception as error:
            return None, _of_worker("failed", error)
        return made, failure

    def _send(self, folder: Path, items: Sequence[Item], records: Sequence[Mapping[str, Any]]) -> None:
        """Send what was made, but no stand-in of what was there before."""
        made = {record["input"] for record in records if not record["skipped"] and record["error"] is None}
        done = [item for item in items if str(item.path) in made]
        for item in items:
            if item not in done and folder != self._order.place:
                report.remove_results(item, folder)
        earlier = report.all_files(done, folder) if self._order.replace else ()
        self._destination.send(
            folder,
            last=[item.outputs(folder).record.relative_to(folder).as_posix() for item in done],
            replaced=[path.relative_to(folder).as_posix() for path in earlier],
        )


def _of_worker(what: str, error: Exception) -> DeployError:
    """What ended the work of a worker, as an error of ours."""
    if isinstance(error, DeployError):
        return error
    reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
    return DeployError(f"a worker on the machine {socket.gethostname()} {what}, {printable(reason)}")


def _unseen(path: Path) -> UsageError:
    return UsageError(
        f"{printable(path)}: the machine {socket.gethostname()} does not see this path; put the inputs into a folder"
        " that all machines share"
    )


def _kept_or_failed(record: dict[str, Any]) -> dict[str, Any]:
    """A record as it is, but a failure in place of a result of other settings, which would be one of another run."""
    if record["skipped"] and report.OTHER_SETTINGS in record["notes"]:
        reason = (
            f"{printable(record['input'])}: has results of another bundle or of other settings, and nothing that exists"
            " is replaced; choose another --output, or replace them with --force"
        )
        return {**report.failed_as(record["input"], reason)}
    return record


class Cluster:
    """A Ray cluster that this process is connected to; :func:`connected` gives one."""

    def __init__(self, size: Size) -> None:
        import ray

        there = ray.cluster_resources()
        self._size = size
        by_gpu = [int(there.get("GPU", 0) / size.gpus)] if size.gpus else []
        self.workers = min([int(there.get("CPU", 0) // size.cpus), *by_gpu])
        if self.workers < 1:
            raise UsageError(
                f"no machine of the cluster has room for a worker with {size.cpus} CPUs and {size.gpus:g} GPUs: in all"
                f" it has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs; pass a smaller --threads or"
                " --ray-gpus"
            )

    def run(self, order: Order, items: Sequence[Item]) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Segment the inputs; positions and report of each part, as soon as it is done.

        Raises:
            GivenUp: segmenting fails on image after image.
            DeployError: a worker cannot see or write what it must.
        """
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # the caller has one
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        block = _block(len(items), self.workers, order.batch)
        rows = [{"position": number, "item": pickle.dumps(item)} for number, item in enumerate(items)]
        parts = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // block)).map_batches(
            Worker,
            fn_constructor_args=(order,),
            batch_size=None,  # a block at a time
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, -(-len(rows) // block))),
            num_cpus=self._size.cpus,
            num_gpus=self._size.gpus or None,
        )
        for row in parts.iter_rows():
            positions, found, failure = pickle.loads(row["done"])
            if found is not None:
                yield positions[: len(found["images"])], found
            if failure is not None:
                raise failure


def _block(inputs: int, workers: int, batch: int) -> int:
    """Inputs in a block: enough to be worth a message, few enough that all workers end at about the same time."""
    most = max(batch, min(MAX_BLOCK, inputs // (4 * workers)))
    return max(most // batch * batch, 1)


@contextmanager
def connected(address: str, size: Size) -> Iterator[Cluster]:
    """Connect to a cluster, or start one on this machine that only this machine reaches, and end it afterwards.

    Args:
        address: ``HOST:PORT``, or ``local``.
        size: of each worker.

    Raises:
        BackendUnavailable: Ray is not installed, or no cluster answers at the address.
        UsageError: the address is none, or the cluster has no room for a worker.
    """
    require_extra("ray", "--ray")
    if address != LOCAL:
        _require_answer(address)
    else:
        # On this machine alone: the loopback, with a token that nobody else has, and no file in the home folder.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's name for it; 0 means the loopback
        os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
    # Ray's own log would stand between our lines; what concerns the user is in the errors that we raise.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        own: dict[str, Any] = {}
        if address == LOCAL:
            own = {"num_cpus": usable_cores(), "include_dashboard": False, "_temp_dir": folder}
        try:
            with _without_stderr():
                ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **own)
        except Exception as error:  # of many kinds, one of them of gRPC
            reason = printable(str(error).strip().partition("\n")[0])
            raise BackendUnavailable(
                f"--ray {address}: Ray does not connect ({type(error).__name__}: {reason}); check the address, the"
                " version of Ray and its token on all machines"
            ) from error
        try:
            # What Ray's machines report comes to stdout here, many lines for a machine that dies. It costs only time.
            with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
                yield Cluster(size)
        finally:
            ray.shutdown()


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Nothing that is written to stderr in C++ is seen: Ray says there that it will be quiet."""
    with open(os.devnull, "wb") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _require_answer(address: str) -> None:
    """See that something listens at an address: Ray itself would try for a minute.

    Raises:
        UsageError: it is no address.
        BackendUnavailable: nothing answers.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"--ray {printable(address)!r} is no address; write local, or HOST:PORT of 'ray start --head'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise BackendUnavailable(
            f"--ray {address}: no Ray cluster answers there ({error.strerror or error}); start one with 'ray start"
            " --head', or check the address"
        ) from error


def require_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """See that the reports of two parts are of the same settings and the same bundle.

    Raises:
        DeployError: they are not, as when machines have different versions of the package.
    """
    differences = differing(one, other)
    if differences:
        raise DeployError(
            f"not all machines of the cluster segment with the same settings ({differences}); install the same version"
            " of msformer-deploy on all of them and name one --bundle, then continue with --skip-existing, which names"
            " the results of other settings"
        )


def merged(
    parts: Sequence[tuple[Sequence[int], Mapping[str, Any]]], seconds: float, passed_over: Mapping[str, int]
) -> dict[str, Any]:
    """The report of all parts in the order of the inputs; a part that came twice counts once.

    Args:
        parts: positions and report of each, as :meth:`Cluster.run` gives them.
        seconds: wall-clock time from the first image to the last.
        passed_over: how many files of the folders were not taken, by kind.
    """
    content = joined([found for _, found in parts])
    entries = {position: entry for each, found in parts for position, entry in zip(each, found["images"], strict=True)}
    content["images"] = [entries[position] for position in sorted(entries)]
    summary = report.summarised(content["images"], seconds)
    return {**content, "summary": summary, "passed_over": dict(passed_over)}
