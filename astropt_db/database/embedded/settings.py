"""Settings of the embedded server, worked out from the memory, cores and disk of the machine.

The server shares the machine with the process that loads or embeds galaxies, so it takes half of
what the PostgreSQL manual advises for a dedicated one ("Resource Consumption").
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

MIB = 1 << 20
GIB = 1 << 30

SHARED_MEMORY_FILES = Path("/dev/shm")
SMALL_SHARED_MEMORY = 256 * MIB

FIXED_SETTINGS = {
    "cluster_name": "astropt-db",
    # Durable: a committed tile survives a power cut.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # One server without replicas: a table filled in the transaction that made it needs no WAL.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "wal_compression": "on",
    "checkpoint_timeout": "15min",
    "autovacuum": "on",
    "jit": "off",
    "random_page_cost": "1.1",
    "max_connections": "100",
    "max_locks_per_transaction": "128",
    "password_encryption": "scram-sha-256",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_min_messages": "warning",
    "log_statement": "none",
    "log_checkpoints": "off",
    "log_autovacuum_min_duration": "-1",
}


@dataclass(frozen=True)
class Machine:
    """What the server may count on: sizes in bytes, ``cores`` as a number of CPUs."""

    memory: int
    cores: int
    free_disk: int
    shared_memory: int

    @classmethod
    def measure(cls, folder: Path) -> Machine:
        """Measure this machine; ``folder`` tells which disk holds the data."""
        limit = cgroup_memory_limit(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
        total = psutil.virtual_memory().total
        return cls(
            memory=total if limit is None else min(total, limit),
            cores=usable_cores(),
            free_disk=shutil.disk_usage(folder).free,
            shared_memory=(
                shutil.disk_usage(SHARED_MEMORY_FILES).total if SHARED_MEMORY_FILES.is_dir() else 0
            ),
        )


def usable_cores() -> int:
    """Return the number of CPUs this process may run on (a batch job may own only some)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_memory_limit(membership: Path, root: Path) -> int | None:
    """Return the smallest memory limit of this process's control groups, in bytes.

    Parameters
    ----------
    membership
        ``/proc/self/cgroup``: lines ``hierarchy:controllers:path`` (cgroups(7)).
    root
        ``/sys/fs/cgroup``, in the layout of version 1, version 2 or both.

    Returns
    -------
    The limit, or None when there is none or the machine has no control groups.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    limits = [_read_limit(file) for line in lines for file in _limit_files(line, root)]
    return min((limit for limit in limits if limit is not None), default=None)


def _limit_files(line: str, root: Path) -> Iterator[Path]:
    """Yield the limit files of a group and its ancestors: each of them binds."""
    hierarchy, controllers, path = line.split(":", 2)
    if hierarchy == "0":
        top, name = root, "memory.max"
    elif "memory" in controllers.split(","):
        top, name = root / "memory", "memory.limit_in_bytes"
    else:
        return
    group = Path(path.lstrip("/"))
    yield from (top / part / name for part in (group, *group.parents))


def _read_limit(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def server_settings(machine: Machine) -> dict[str, str]:
    """Return the settings of the server for a machine, as ``name: value`` of postgresql.conf."""
    memory, cores = machine.memory, machine.cores
    max_wal = _clamp(machine.free_disk // 20, 128 * MIB, 8 * GIB)
    half_the_cores = max(1, cores // 2)
    return FIXED_SETTINGS | {
        "shared_buffers": _size(_clamp(memory // 8, 64 * MIB, 8 * GIB)),
        "effective_cache_size": _size(memory // 2),
        "maintenance_work_mem": _size(_clamp(memory // 16, 64 * MIB, 2 * GIB)),
        "autovacuum_work_mem": _size(_clamp(memory // 64, 32 * MIB, 256 * MIB)),
        "work_mem": _size(_clamp(memory // 512, 4 * MIB, 64 * MIB)),
        # A backend that fills them writes the log itself, in place of the WAL writer: with the
        # usual 16 MB COPY of wide rows took a fifth longer.
        "wal_buffers": _size(_clamp(memory // 256, 16 * MIB, 64 * MIB)),
        "max_wal_size": _size(max_wal),
        "min_wal_size": _size(max(32 * MIB, max_wal // 8)),
        "max_worker_processes": str(cores + 8),
        "max_parallel_workers": str(cores),
        "max_parallel_workers_per_gather": str(min(4, half_the_cores)),
        "max_parallel_maintenance_workers": str(min(8, half_the_cores)),
        # Containers often get 64 MB of /dev/shm, which one parallel index build overflows.
        "dynamic_shared_memory_type": (
            "mmap" if machine.shared_memory < SMALL_SHARED_MEMORY else "posix"
        ),
    }


def render(settings: Mapping[str, str]) -> str:
    """Return settings as the text of a PostgreSQL configuration file."""
    lines = [f"{name} = '{_escape(value)}'" for name, value in settings.items()]
    return "\n".join(
        [
            "# Written by astropt-db at each start of the server: edits here are lost.",
            "# To change a setting for good: ALTER SYSTEM SET name = value; and a restart.",
            *lines,
            "",
        ]
    )


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def _size(size: int) -> str:
    return f"{size // MIB}MB"
