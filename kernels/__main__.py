"""``python -m msformer_deploy.kernels``: compile every kernel for every device, and show the resources of each."""

from .resources import main

main()
