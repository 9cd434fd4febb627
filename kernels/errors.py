"""What can go wrong with a CUDA kernel."""

from __future__ import annotations

from msformer_deploy.errors import BackendUnavailable, DeployError


class KernelError(DeployError):
    """A kernel that could not be loaded or launched."""


class KernelsUnavailable(BackendUnavailable):
    """The kernels cannot run here, or not on these sizes; torch can."""
