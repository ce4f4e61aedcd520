"""What control groups leave a process: trees as systems write them, and a real group where one can be made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from real_groups import own_group

from gems_edge.control_groups import available_cores, memory_left

V2_MOUNT = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)
UNLIMITED = "9223372036854771712"


def recorded(root: Path, cgroup: str, mounts: str, files: dict[str, str]) -> Path:
    """A tree with /proc/self/cgroup, /proc/self/mountinfo and `files` below /sys/fs/cgroup."""
    texts = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts}
    for name, text in (texts | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v2(*levels: tuple[str, dict[str, str]]) -> dict[str, str]:
    return {f"{path}/{name}".lstrip("/"): text for path, entries in levels for name, text in entries.items()}


def test_without_groups_nothing_is_limited(tmp_path):
    assert memory_left(tmp_path) is None
    assert available_cores(tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    "limit, used, expected", [("3000", "1000", 2000), ("max", "1000", None), ("1000", "2000", 0), ("", "", None)]
)
def test_the_limit_of_version_2(tmp_path, limit, used, expected):
    files = v2(("", {"memory.max": f"{limit}\n", "memory.current": f"{used}\n"}))
    assert memory_left(recorded(tmp_path, "0::/\n", V2_MOUNT.format(root="/"), files)) == expected


def test_the_tightest_of_nested_groups_counts(tmp_path):
    """A service in a slice: the slice has less room than the service's own limit leaves; the outermost has none."""
    files = v2(
        ("/app.slice/photos.service", {"memory.max": "9000", "memory.high": "max", "memory.current": "1000"}),
        ("/app.slice", {"memory.max": "max", "memory.high": "6000", "memory.current": "2500"}),
        ("", {}),
    )
    root = recorded(tmp_path, "0::/app.slice/photos.service\n", V2_MOUNT.format(root="/"), files)
    assert memory_left(root) == 3500


def test_pages_of_files_are_no_use_of_memory(tmp_path):
    stat = "anon 100\nfile 700\ninactive_file 500\nactive_file 200\nshmem 0\n"
    files = v2(("", {"memory.max": "1000", "memory.current": "800", "memory.stat": stat}))
    assert memory_left(recorded(tmp_path, "0::/\n", V2_MOUNT.format(root="/"), files)) == 900


@pytest.mark.parametrize("mounted", ["/", "/docker/4f2a", "/elsewhere"])
def test_version_1_in_a_container(tmp_path, mounted):
    """The mount point shows all groups, the container's own, or one that this process is not in."""
    below = {"/": "docker/4f2a/"}.get(mounted, "")
    files = {
        f"memory/{below}memory.limit_in_bytes": "5000",
        f"memory/{below}memory.usage_in_bytes": "1500",
        f"memory/{below}memory.stat": "cache 500\ntotal_inactive_file 300\ntotal_active_file 200\n",
        f"cpu,cpuacct/{below}cpu.cfs_quota_us": "150000",
        f"cpu,cpuacct/{below}cpu.cfs_period_us": "100000",
    }
    if below:
        files |= {"memory/memory.limit_in_bytes": UNLIMITED, "memory/memory.usage_in_bytes": "77"}
        files |= {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    groups = "4:memory:/docker/4f2a\n2:cpu,cpuacct:/docker/4f2a\n1:name=systemd:/docker/4f2a\n0::/\n"
    root = recorded(tmp_path, groups, V1_MOUNTS.format(root=mounted), files)
    assert memory_left(root) == 4000
    assert available_cores(root) == min(2, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    "quotas, cores",
    [(["max 100000"], 64), (["50000 100000"], 1), (["250000 100000", "max 100000"], 3), (["400000 100000", "1 2"], 1),
     (["", "garbage"], 64), (["100 0"], 64)],
)  # fmt: skip
def test_threads_follow_the_quota(tmp_path, monkeypatch, quotas, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    paths = ["/a/b", "/a"]
    files = v2(*((path, {"cpu.max": quota}) for path, quota in zip(paths, quotas)))
    assert available_cores(recorded(tmp_path, "0::/a/b\n", V2_MOUNT.format(root="/"), files)) == cores


def test_a_path_with_blanks_and_one_outside(tmp_path):
    mounts = V2_MOUNT.format(root="/").replace("/sys/fs/cgroup", "/sys/fs/cgroup/my\\040groups")
    files = {"my groups/memory.max": "10", "my groups/memory.current": "4"}
    assert memory_left(recorded(tmp_path, "0::/../other:one\n", mounts, files)) == 6


IN_GROUP = """
import os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
from gems_edge.control_groups import available_cores, memory_left
print(memory_left(), available_cores())
"""


def ask_inside(group: Path, files: dict[str, str]) -> list[str]:
    try:
        for name, text in files.items():
            if (group / name).exists():
                (group / name).write_text(text)
        done = subprocess.run([sys.executable, "-c", IN_GROUP, str(group)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()
    finally:
        group.rmdir()


def test_a_real_group_limits_memory():
    group = own_group("memory", "memory.max")
    left, _ = ask_inside(group, {"memory.max": "200000000", "memory.limit_in_bytes": "200000000"})
    assert 150_000_000 < int(left) <= 200_000_000


def test_a_real_group_limits_cores():
    group = own_group("cpu", "cpu.max")
    _, cores = ask_inside(group, {"cpu.max": "100000 100000", "cpu.cfs_quota_us": "100000"})
    assert cores == "1"
