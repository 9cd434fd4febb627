"""Compiles the CUDA kernels into the wheel. Everything else is in ``pyproject.toml``."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.build import build

PACKAGE = Path(__file__).parent / "msformer_deploy"

# Top-level folders that the package reaches through links: so every tool finds them where they are imported.
for link in ("export", "kernels"):
    if not (PACKAGE / link).is_dir():
        raise SystemExit(
            f"error: {PACKAGE / link} should be a link to the folder {link}, but the checkout has no links;"
            " run 'git config core.symlinks true && git checkout -- msformer_deploy' (on Windows as administrator)"
        )


class BuildKernels(Command):
    """Compile the CUDA kernels into the wheel, if there is a compiler. An editable install compiles at first use."""

    user_options: ClassVar = []

    def initialize_options(self):
        self.build_lib = None
        self.editable_mode = False

    def finalize_options(self):
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self):
        if self.editable_mode:
            return
        # Bare packages: what ours import when they are imported is not installed where a wheel is built.
        for folder in (PACKAGE, PACKAGE / "kernels"):
            name = ".".join(folder.relative_to(PACKAGE.parent).parts)
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__path__ = [str(folder)]
        errors = import_module("msformer_deploy.errors")
        folder = Path(self.build_lib, "msformer_deploy/kernels/compiled")
        try:
            import_module("msformer_deploy.kernels.compile").ship(folder)
        except errors.BackendUnavailable as error:
            self.warn(f"this wheel carries no compiled CUDA kernels and will compile them at first use: {error}")
        except errors.DeployError as error:
            raise SystemExit(f"error: {error}") from None

    # What setuptools asks of every part of a build. The sources are the package's data.

    def get_source_files(self):
        return []

    def get_outputs(self):
        return []

    def get_output_mapping(self):
        return {}


class Build(build):
    """The usual build, and the kernels."""

    sub_commands: ClassVar = [*build.sub_commands, ("build_kernels", None)]


setup(cmdclass={"build": Build, "build_kernels": BuildKernels})
