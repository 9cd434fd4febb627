"""``python -m msformer_deploy.kernels``: compile every kernel for every device, and show what each takes."""

from .resources import main

main()
