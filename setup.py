"""Maps the three top-level folders onto one import package; everything else is in ``pyproject.toml``."""

from setuptools import find_packages, setup

# Top-level folder -> import name: "export" and "kernels" are too generic to stand in site-packages by themselves.
FOLDERS = {
    "msformer_deploy": "msformer_deploy",
    "export": "msformer_deploy.export",
    "kernels": "msformer_deploy.kernels",
}

packages = [
    name
    for folder, package in FOLDERS.items()
    for name in [package, *(f"{package}.{child}" for child in find_packages(folder))]
]

setup(packages=packages, package_dir={package: folder for folder, package in FOLDERS.items()})
