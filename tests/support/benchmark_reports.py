"""Made-up benchmark reports, as ``benchmark --json`` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from msformer_deploy.measures import statistics

STAGES = {"decode": 20.0, "preprocess": 4.0, "encoder": 700.0, "sample": 3.0, "step 1": 10.0, "step 2": 12.0}
STAGES |= {"argmax": 14.0, "foreground": 12.0, "write": 75.0}


def samples(median: float, count: int = 40, seed: int = 0, spread: float = 0.01) -> list[float]:
    """Latencies around ``median``, ms."""
    return (median * (1 + spread * np.random.default_rng(seed).standard_normal(count))).tolist()


def row(name: str, samples_ms: Sequence[float] = (), **changes: Any) -> dict[str, Any]:
    """A row that ran; ``name`` is backend, precision and whatever else."""
    backend, precision, *_ = name.split()
    measured = list(samples_ms) or samples(850.0)
    return {
        "name": name,
        "bundle": "bundle",
        "backend": backend,
        "provider": "cpu",
        "precision": precision,
        "graph": "encoder",
        "batch": 1,
        "side": 257,
        "refine": "head",
        "status": "ok",
        "reason": None,
        "exit_code": None,
        "artefact_mb": 45.25,
        "load_s": 0.83,
        "first_run_ms": 1200.0,
        **statistics.summarise(measured),
        "images_per_second": 1e3 / float(np.mean(measured)),
        "peak_memory_mb": 1220.0,
        "peak_device_memory_mb": None,
        "cuda_graph": None,
        "speedup": None,
        "label_agreement": 0.9998,
        "dice_torch": 0.9994,
        "dice_truth": None,
        "stages_ms": STAGES,
        "stages_sum": 0.998,
        "samples_ms": measured,
        "warnings": [],
        **changes,
    }


def failed(name: str, reason: str = "there is no GPU", status: str = "failed") -> dict[str, Any]:
    """A row that did not run."""
    made = row(name)
    kept = ("name", "bundle", "backend", "precision", "graph", "batch", "side", "refine")
    return {
        **dict.fromkeys(made),
        **{key: made[key] for key in kept},
        "status": status,
        "reason": reason,
        "warnings": [],
    }


def report(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A report of these rows, the first one being the baseline."""
    return {
        "schema": 1,
        "rows": list(rows),
        "load": [],
        "environment": {
            "date": "2026-11-21T12:00:00+00:00",
            "system": "Linux",
            "cpu": "Processor 1",
            "cores": 2,
            "affinity": 2,
            "threads": {"asked": None, "used": 2},
            "gpus": [],
            "driver": None,
            "versions": {"torch": "2.13.0", "onnxruntime": "1.31.1"},
        },
        "settings": {
            "min_seconds": 5.0,
            "min_iterations": 10,
            "warmup_seconds": 2.0,
            "images": 4,
            "baseline": rows[0]["name"] if rows else None,
            "threads": 2,
        },
        "warnings": [],
        **changes,
    }
