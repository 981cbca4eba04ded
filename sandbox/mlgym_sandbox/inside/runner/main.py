"""The runner's beginning."""

from __future__ import annotations

import os
import sys

from mlgym_sandbox.inside.runner.native import loads
from mlgym_sandbox.inside.runner.runner import Runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlgym_sandbox.inside.runner.wire import Header


def read_config() -> Header:
    """Take the configuration out of the environment; what is not in it has the defaults of ``inside``."""
    config: Header = {
        "listen_fd": None,
        "agent_uid": None,
        "agent_gid": None,
        "kill": "everyone",
        "ttl_s": 3600.0,
        "state_dir": "/run/mlgym",
        "workspace": "/workspace",
        "path_map": {},
        "read_only": ["/data"],
        "env": {},
        "output_bytes": 16 << 20,
        "storage_bytes": None,
        "disk_paths": ["/workspace", "/tmp"],
        "oom_fd": None,
        "cgroup_dir": "/sys/fs/cgroup",
        "nofile": 4096,
        "nproc": None,
        "fsize_bytes": None,
    }
    config.update(loads(os.environ.pop("MLGYM_RUNNER").encode()))
    defaults = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": config["workspace"],
        "DATA_DIR": "/data",
        "LANG": "C.UTF-8",
    }
    config["env"] = dict(defaults, **config["env"])
    if config["agent_uid"] is not None and config["agent_gid"] is None:
        config["agent_gid"] = config["agent_uid"]
    if config["oom_fd"] is not None:
        os.set_inheritable(config["oom_fd"], False)
    return config


def main() -> None:
    os.chdir("/")
    Runner(read_config()).serve()
    sys.stderr.flush()
    os._exit(0)
