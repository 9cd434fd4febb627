"""Errors of the CUDA kernels."""

from __future__ import annotations

from msformer_deploy.errors import BackendUnavailable, DeployError


class KernelError(DeployError):
    """A kernel could not be loaded or launched."""


class KernelsUnavailable(BackendUnavailable):
    """The kernels cannot run here or for these sizes; the torch reference can."""
