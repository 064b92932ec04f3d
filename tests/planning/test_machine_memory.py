"""What the system says of its memory: of the whole machine, and of the control groups around this process."""

from __future__ import annotations

from pathlib import Path

from neuroscan_farm.planning.machine_memory import available_bytes, process_bytes


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_a_control_group_it_is_what_the_machine_has_free(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"proc/meminfo": "MemTotal: 4000 kB\nMemAvailable:    3000 kB\n", "proc/self/cgroup": "0::/\n"},
    )
    assert available_bytes(tmp_path) == 3000 * 1024


def test_the_narrowest_group_of_version_2_counts_and_read_files_do_not(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/a/b"
    write(
        tmp_path,
        {
            "proc/meminfo": "MemAvailable: 3000000 kB\n",
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/memory.max": "900000000\n",
            "sys/fs/cgroup/a/memory.current": "700000000\n",
            "sys/fs/cgroup/a/memory.stat": "anon 1\ninactive_file 400000000\n",
            f"{group}/memory.max": "max\n",
            f"{group}/memory.current": "1\n",
        },
    )
    assert available_bytes(tmp_path) == 600_000_000


def test_a_group_of_version_1_counts(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/job"
    write(
        tmp_path,
        {
            "proc/meminfo": "MemAvailable: 3000000 kB\n",
            "proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n",
            f"{group}/memory.limit_in_bytes": "500000000\n",
            f"{group}/memory.usage_in_bytes": "100000000\n",
            f"{group}/memory.stat": "total_inactive_file 20000000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert available_bytes(tmp_path) == 420_000_000


def test_a_container_that_sees_its_own_group_as_the_root_is_bounded_too(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/meminfo": "MemAvailable: 3000000 kB\n",
            "proc/self/cgroup": "0::/docker/1f2e\n",  # a path of the host, which is not there
            "sys/fs/cgroup/memory.max": "200000000\n",
            "sys/fs/cgroup/memory.current": "300000000\n",
        },
    )
    assert available_bytes(tmp_path) == 0


def test_a_system_that_says_nothing_has_no_bound(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None
    assert process_bytes(tmp_path) == 0


def test_this_process_has_memory() -> None:
    assert process_bytes() > 10_000_000
