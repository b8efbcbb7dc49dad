from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from pytest_xhyve.host.memory import read_memory

GIB = 1 << 30
NO_LIMIT = 9223372036854771712


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2_IN_A_GROUP = {
    "proc/self/cgroup": "0::/user.slice/job\n",
    "sys/fs/cgroup/user.slice/job/memory.max": "max\n",
    "sys/fs/cgroup/user.slice/job/memory.current": "99999\n",
    "sys/fs/cgroup/user.slice/memory.max": f"{GIB}\n",
    "sys/fs/cgroup/user.slice/memory.current": f"{GIB // 2}\n",
    "sys/fs/cgroup/user.slice/memory.stat": f"anon 1\ninactive_file {GIB // 4}\n",
}
V2_IN_A_CONTAINER = {
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/memory.max": f"{GIB}\n",
    "sys/fs/cgroup/memory.current": f"{GIB // 4}\n",
}
V2_OUTSIDE_OF_THE_NAMESPACE = {**V2_IN_A_CONTAINER, "proc/self/cgroup": "0::/../../other\n"}
# The path is the host's, and the container sees its own group at the top.
V1_IN_A_CONTAINER = {
    "proc/self/cgroup": "12:cpu,cpuacct:/docker/abc\n11:memory:/docker/abc\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB // 2}\n",
    "sys/fs/cgroup/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 4}\n",
}


@pytest.mark.parametrize(
    ("files", "folder"),
    [
        (V2_IN_A_GROUP, "sys/fs/cgroup/user.slice"),
        (V2_IN_A_CONTAINER, "sys/fs/cgroup"),
        (V2_OUTSIDE_OF_THE_NAMESPACE, "sys/fs/cgroup"),
        (V1_IN_A_CONTAINER, "sys/fs/cgroup/memory"),
    ],
)
def test_limit_of_the_control_group(tmp_path: Path, files: dict[str, str], folder: str) -> None:
    memory = read_memory(write(tmp_path, files))
    assert (memory.total, memory.owner) == (GIB, f"the control group {tmp_path / folder}")
    # Cached files do not count as used.
    assert memory.available == min(3 * GIB // 4, psutil.virtual_memory().available)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": ""},
        {"proc/self/cgroup": "nonsense\n\n0::\n::\n", "sys/fs/cgroup/memory.max": "much\n"},
        {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"},
        {"proc/self/cgroup": "3:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{NO_LIMIT}\n"},
    ],
)
def test_without_a_limit_it_is_the_host_s(tmp_path: Path, files: dict[str, str]) -> None:
    memory = read_memory(write(tmp_path, files))
    assert (memory.total, memory.owner) == (psutil.virtual_memory().total, "this host")


def test_this_host(tmp_path: Path) -> None:
    memory = read_memory()
    assert 0 < memory.available <= memory.total <= psutil.virtual_memory().total
