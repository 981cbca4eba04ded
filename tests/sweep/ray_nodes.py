"""A Ray cluster of several nodes on loopback, as a process: prints its address, then does what it is told.

python -m tests.sweep.ray_nodes HEADLESS-NODES

Reads lines: ``kill`` ends one node with SIGKILL, ``add`` adds one, the end of the input ends them all.
"""

from __future__ import annotations

import os
import sys

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "180",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

from ray.cluster_utils import Cluster

_STORE = 80 << 20
_LOOPBACK = "127.0.0.1"


def main() -> None:
    common = {"node_ip_address": _LOOPBACK, "object_store_memory": _STORE}
    head = {"num_cpus": 0, "include_dashboard": False, **common}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=2, memory=8 << 30, **common) for _ in range(int(sys.argv[1]))]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(nodes.pop(0), allow_graceful=False)
        else:
            nodes.append(cluster.add_node(num_cpus=2, memory=8 << 30, **common))
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
