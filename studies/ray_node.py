"""``ray start`` whose ports are all on the loopback: ``python studies/ray_node.py start --head ...``.

Ray takes the address 127.0.0.1 for one that it should replace by the machine's own, and then listens on all of them.
Here the machine has no other address.
"""

from __future__ import annotations

import sys

from ray._private import services
from ray.scripts.scripts import main

if __name__ == "__main__":
    services.node_ip_address_from_perspective = lambda *_: "127.0.0.1"
    sys.exit(main())
