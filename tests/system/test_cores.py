import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vqtrt.system import cores
from vqtrt.system.cores import core_limit, usable_cores

Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Pretend to be a process of 64 cores in cgroups; gives its folder in /proc.

    `groups` are lines of /proc/self/cgroup; `mounts` are (type, root, folder, options), whose
    folders are below `tmp_path`; `files` are written below it.
    """
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)

    def build(
        groups: list[str], mounts: list[tuple[str, str, str, str]], files: dict[str, str]
    ) -> Path:
        proc = tmp_path / "proc"
        proc.mkdir()
        (proc / "cgroup").write_text("".join(f"{line}\n" for line in groups))
        lines = ["22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"]
        for number, (kind, root, folder, options) in enumerate(mounts):
            point = str(tmp_path / folder).replace(" ", r"\040")
            lines.append(
                f"{30 + number} 22 0:{number} {root} {point} rw,nosuid shared:9 - "
                f"{kind} cgroup {options}\n"
            )
        (proc / "mountinfo").write_text("".join(lines))
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        return proc

    return build


V2 = [("cgroup2", "/", "cgroup", "rw,nsdelegate")]


def v1(root: str = "/", folder: str = "cgroup/cpu,cpuacct") -> tuple[str, str, str, str]:
    return ("cgroup", root, folder, "rw,cpu,cpuacct")


def cfs(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {
        f"{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"{folder}/cpu.cfs_period_us": f"{period}\n",
    }


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("200000 100000\n", 2),
        ("max 100000\n", 64),
        ("50000 100000\n", 1),
        ("250000 100000\n", 3),
        ("9900000 100000\n", 64),
        ("20000 10000", 2),
        ("", 64),
        ("nonsense 1\n", 64),
        ("100000 0\n", 64),
    ],
)
def test_the_quota_of_a_container(machine: Machine, limit: str, expected: int) -> None:
    assert usable_cores(machine(["0::/"], V2, {"cgroup/cpu.max": limit})) == expected


def test_the_least_of_all_cgroups_above(machine: Machine) -> None:
    files = {
        "cgroup/slurm/job/step/cpu.max": "max 100000\n",
        "cgroup/slurm/job/cpu.max": "400000 100000\n",
        "cgroup/slurm/cpu.max": "1600000 100000\n",
        "cgroup/other/cpu.max": "100000 100000\n",
    }
    assert usable_cores(machine(["0::/slurm/job/step"], V2, files)) == 4


def test_version_1(machine: Machine) -> None:
    files = cfs("cgroup/cpu,cpuacct/a/b", -1) | cfs("cgroup/cpu,cpuacct/a", 300_000)
    groups = ["12:memory:/elsewhere", "4:cpu,cpuacct:/a/b", "1:name=systemd:/a/b"]
    assert usable_cores(machine(groups, [v1()], files)) == 3


def test_a_container_of_version_1_sees_its_own_cgroup_as_the_root(machine: Machine) -> None:
    proc = machine(
        ["4:cpuset:/docker/f00", "5:cpu,cpuacct:/docker/f00"],
        [v1("/docker/f00"), ("cgroup", "/docker/f00", "cgroup/cpuset", "rw,cpuset")],
        cfs("cgroup/cpu,cpuacct", 150_000, 50_000),
    )
    assert usable_cores(proc) == 3


def test_both_versions_at_once(machine: Machine) -> None:
    mounts = [v1(folder="sys fs/cpu"), ("cgroup2", "/", "sys fs/unified", "rw")]
    files = cfs("sys fs/cpu/job", 500_000) | {"sys fs/unified/job/cpu.max": "max 100000\n"}
    assert usable_cores(machine(["1:cpu:/job", "0::/job"], mounts, files)) == 5


@pytest.mark.parametrize("path", ["/../../system.slice", "/gone/by/now"])
def test_a_path_that_is_not_mounted(machine: Machine, path: str) -> None:
    proc = machine([f"0::{path}"], V2, {"cgroup/cpu.max": "700000 100000\n"})
    assert usable_cores(proc) == 7


def test_without_cgroups(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores(machine([], [], {})) == 64
    assert usable_cores(tmp_path / "no proc") == 64
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert usable_cores(tmp_path / "no proc") == 2


@pytest.mark.parametrize(
    ("value", "expected"), [("3", 3), ("100", 100), ("default", 2), ("", 2), ("0", 2), ("-1", 2)]
)
def test_the_variable_of_python(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, value: str, expected: int
) -> None:
    proc = machine(["0::/"], V2, {"cgroup/cpu.max": "200000 100000\n"})
    monkeypatch.setenv("PYTHON_CPU_COUNT", value)
    assert usable_cores(proc) == expected


def test_a_limit_is_none_for_a_whole_machine(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc = machine(["0::/"], V2, {"cgroup/cpu.max": "max 100000\n"})
    monkeypatch.setattr(cores, "usable_cores", lambda: usable_cores(proc))
    assert core_limit() is None
    (proc.parent / "cgroup/cpu.max").write_text("200000 100000\n")
    assert core_limit() == 2


def test_no_other_module_counts_cores() -> None:
    package = Path(cores.__file__).parent
    counting = [
        path.relative_to(package).as_posix()
        for path in sorted(package.rglob("*.py"))
        if any(name in path.read_text() for name in ("sched_getaffinity", "cpu_count"))
    ]
    assert counting == ["cores.py"]
