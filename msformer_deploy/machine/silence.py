"""Telemetry of the runtimes, switched off before any of them is imported: nothing is sent.

The package imports this module first, so it runs in every command, script, test and child process. The package
promises silence, so it overrides a user's variable that would let a runtime report. ``docs/how-to/install.md`` lists
the findings for each library, and ``doctor`` checks them.
"""

from __future__ import annotations

import os
import sys
import warnings

# From 1.29 on, the import of ONNX Runtime writes an identifier and a database of events into the user's cache folder,
# and uploads the events later. Only this variable prevents all of it, and child processes inherit it. With the value 0
# or an empty value, telemetry stays on.
VARIABLE, OFF = "ORT_DISABLE_TELEMETRY", "1"

# Ray reports the use of a cluster to its makers, from the head of the cluster. With reports off, the head of a cluster
# that `ray start` has started still reports once that they are off. So the address is one at which nobody answers, on
# this machine. Heads that are started elsewhere need both variables there (docs/how-to/clusters.md).
OF_RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9"}

# The import of OpenVINO sends an event through this module, which also writes an identifier into the home folder. No
# variable prevents it. Where the module cannot be imported, OpenVINO uses its own stand-in, which does nothing.
REPORTER = "openvino_telemetry"


def switch_off() -> None:
    """Switch telemetry off in this process and in its child processes.

    Warns if ONNX Runtime was already imported with telemetry on: the events of that import cannot be stopped.
    """
    onnxruntime = sys.modules.get("onnxruntime")
    if onnxruntime is not None and os.environ.get(VARIABLE) != OFF:
        if hasattr(onnxruntime, "disable_telemetry_events"):  # stops later events, not those that wait to be uploaded
            onnxruntime.disable_telemetry_events()
        warnings.warn(
            "onnxruntime was imported before msformer_deploy and may have reported to its maker;"
            f" import msformer_deploy first, or set {VARIABLE}={OFF}",
            stacklevel=2,
        )
    os.environ[VARIABLE] = OFF
    os.environ.update(OF_RAY)
    sys.modules[REPORTER] = None  # type: ignore[assignment]  # None marks a module that cannot be imported


switch_off()
