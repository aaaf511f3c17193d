"""Where the embedded server can live, and as which system user.

PostgreSQL needs a local POSIX file system, a socket path short enough for the kernel and a system
user other than root.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from astropt_db.errors import ConfigurationError, DatabaseError

if sys.platform != "win32":
    import pwd

logger = logging.getLogger(__name__)

SERVER_ACCOUNT = "pgserver"
FALLBACK_ACCOUNT = "nobody"

# sun_path holds 108 bytes on Linux and 104 on macOS, the final NUL included (unix(7)).
SOCKET_PATH_LIMIT = 103 if sys.platform == "darwin" else 107
LONGEST_SOCKET_NAME = ".s.PGSQL.65535"

# Locks, fsync or mmap of these do not hold what PostgreSQL asks of them, or hold it on one
# machine only: two nodes of a cluster could open the same data directory.
NETWORK_FILE_SYSTEMS = re.compile(
    r"(fuse\.)?(afp|afs|beegfs|ceph|cifs|coda|dav|fhgfs|gcsfuse|gluster|goofys|gpfs|juicefs|lustre"
    r"|mount-s3|nfs|orangefs|panfs|pvfs|rclone|s3fs|smb|sshfs|webdav|weka)"
)
"""Matches the start of the kernel's names of network file systems (``nfs4``, ``fuse.sshfs``)."""

USE_OTHER_PLACE = (
    "Name a folder on a local disk in ASTROPT_DB_HOME, or another PostgreSQL with --db or "
    "ASTROPT_DB_URL."
)


@contextlib.contextmanager
def explained_os_errors(home: Path) -> Iterator[None]:
    """Turn an OSError on the server's files into a ConfigurationError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(home) from error
        raise ConfigurationError(
            f"{error.filename or home}: the database folder {home} cannot be used: "
            f"{error.strerror or error}. {USE_OTHER_PLACE}"
        ) from error


def disk_full(home: Path) -> ConfigurationError:
    """Return the error for a disk or a quota without room for the server's files."""
    return ConfigurationError(
        f"{home}: the disk, or your quota on it, is full. Free some space and run the command "
        "again, or name a folder on another disk in ASTROPT_DB_HOME."
    )


# --- file system ----------------------------------------------------------------------------


def filesystem_type(path: Path, mountinfo: str | None = None) -> str:
    """Return the type of the file system that holds ``path``, such as ``ext4`` or ``nfs4``.

    Parameters
    ----------
    path
        Need not exist yet: its nearest existing parent counts.
    mountinfo
        Text in the format of ``/proc/self/mountinfo`` (proc(5)); by default this machine's.

    Returns
    -------
    The type as the kernel names it, or ``unknown``.
    """
    mounts = _machine_mounts() if mountinfo is None else _parse_mountinfo(mountinfo)
    parents = {str(parent) for parent in (path.resolve(), *path.resolve().parents)}
    found = [(len(point), number) for number, (point, _) in enumerate(mounts) if point in parents]
    # The longest mount point holds the path; of two on the same point the later hides the other.
    return mounts[max(found)[1]][1] if found else "unknown"


def _machine_mounts() -> list[tuple[str, str]]:
    try:
        return _parse_mountinfo(Path("/proc/self/mountinfo").read_text())
    except OSError:
        return [(disk.mountpoint, disk.fstype) for disk in psutil.disk_partitions(all=True)]


def _parse_mountinfo(text: str) -> list[tuple[str, str]]:
    halves = [line.split(" - ", 1) for line in text.splitlines() if " - " in line]
    return [(_unescape(left.split()[4]), right.split()[0]) for left, right in halves]


def _unescape(point: str) -> str:
    """Undo the octal escapes (``\\040`` for a space) of mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)


def require_local_disk(folder: Path, mountinfo: str | None = None) -> None:
    """Raise ConfigurationError when ``folder`` lies on a network file system."""
    kind = filesystem_type(folder, mountinfo)
    if NETWORK_FILE_SYSTEMS.match(kind):
        raise ConfigurationError(
            f"{folder}: lies on a network file system ({kind}), where a PostgreSQL data directory "
            f"can be corrupted. {USE_OTHER_PLACE}"
        )


# --- socket ---------------------------------------------------------------------------------


def socket_directory(home: Path) -> Path:
    """Return the folder for the server's socket: ``home/socket``, else one in the temporary folder.

    The second is named by a hash of ``home``. The user's XDG runtime folder would be the usual
    place, but systemd empties it at logout while the server goes on.

    Raises
    ------
    ConfigurationError
        When both paths are longer than a Unix socket address allows.
    """
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    candidates = (home / "socket", Path(tempfile.gettempdir()) / f"astropt-db-{digest}")
    for candidate in candidates:
        if _fits_socket_address(candidate):
            return candidate
    raise ConfigurationError(
        f"{home}: too long for a Unix socket, and so is the temporary folder "
        f"{tempfile.gettempdir()}: the limit is {SOCKET_PATH_LIMIT} bytes with the socket's name. "
        "Name a shorter folder in ASTROPT_DB_HOME or TMPDIR."
    )


def _fits_socket_address(folder: Path) -> bool:
    # libpq reads a comma in `host` as the end of the first host; quotes trouble the server.
    plain = not re.search(r"[,\"'\n]", str(folder))
    return plain and len(os.fsencode(folder / LONGEST_SOCKET_NAME)) <= SOCKET_PATH_LIMIT


# --- system user ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ServerUser:
    """The system user that the server runs as."""

    uid: int
    gid: int

    def run(
        self, command: list[str], folder: Path, timeout: float, keep_open: tuple[int, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as this user in ``folder``, in a session of its own; capture its output.

        A session of its own keeps Ctrl-C in the client's terminal away from the server. The
        command inherits the file descriptors ``keep_open``.
        """
        # PGPORT, PGOPTIONS and their like are meant for clients but would reach the server too.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        as_root = os.geteuid() == 0
        try:
            return subprocess.run(
                command,
                cwd=folder,
                env=environment | {"LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
                start_new_session=True,
                pass_fds=keep_open,
                user=self.uid if as_root else None,
                group=self.gid if as_root else None,
                extra_groups=[] if as_root else None,
            )
        except subprocess.TimeoutExpired as error:
            raise DatabaseError(
                f"{command[0]} did not end within {timeout:.0f} s in {folder}. Is the disk very "
                "slow or the machine overloaded? Run the command again."
            ) from error
        except OSError as error:
            if as_root and error.errno in (errno.EPERM, errno.EINVAL):
                raise ConfigurationError(
                    "PostgreSQL refuses to run as root, and this root may not become another "
                    f"user (uid {self.uid}): a container without CAP_SETUID? Run as a plain user, "
                    "or name another PostgreSQL with --db or ASTROPT_DB_URL."
                ) from error
            raise

    def own(self, path: Path, mode: int) -> None:
        """Give ``path`` to this user with these permission bits."""
        os.chown(path, self.uid, self.gid, follow_symlinks=False)
        path.chmod(mode)


def server_user(*folders: Path) -> ServerUser:
    """Return the user to run the server as: oneself, or for root an unprivileged account.

    Root runs the server as the owner of the first of ``folders`` (data directory, home) that
    exists and belongs to somebody else, so that ``sudo`` takes nothing away from its owner; else as
    ``pgserver``, which is created when possible; else as ``nobody``.
    """
    if os.geteuid() != 0:
        return ServerUser(os.geteuid(), os.getegid())
    for owner in (folder.stat() for folder in folders if folder.exists()):
        if owner.st_uid != 0:
            return ServerUser(owner.st_uid, owner.st_gid)
    account = _account(SERVER_ACCOUNT) or _created_account() or _account(FALLBACK_ACCOUNT)
    if account is None:
        raise ConfigurationError(
            "PostgreSQL refuses to run as root, and this machine has neither a user "
            f"{SERVER_ACCOUNT!r} nor {FALLBACK_ACCOUNT!r}. Create one: "
            f"useradd --system {SERVER_ACCOUNT}"
        )
    return account


def _account(name: str) -> ServerUser | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return ServerUser(entry.pw_uid, entry.pw_gid)


def _created_account() -> ServerUser | None:
    command = ["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent"]
    try:
        subprocess.run(
            [*command, "--shell", "/usr/sbin/nologin", SERVER_ACCOUNT],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    logger.warning("created the system user %r to run PostgreSQL as", SERVER_ACCOUNT)
    return _account(SERVER_ACCOUNT)


def open_the_way(user: ServerUser, *targets: Path) -> None:
    """As root, let the server's user pass through the parents of ``targets``.

    Each parent gets the one missing traverse bit (x) and never a read bit: its content stays
    hidden from others.
    """
    if os.geteuid() != 0:
        return
    parents = {parent for target in targets for parent in target.resolve().parents}
    opened = [str(parent) for parent in sorted(parents) if _add_traverse_bit(parent, user)]
    if opened:
        logger.warning(
            "PostgreSQL does not run as root: let its user (uid %d) pass through %s",
            user.uid,
            ", ".join(opened),
        )


def _add_traverse_bit(folder: Path, user: ServerUser) -> bool:
    found = folder.stat()
    bit = stat.S_IXOTH
    if found.st_uid == user.uid:
        bit = stat.S_IXUSR
    elif found.st_gid == user.gid:
        bit = stat.S_IXGRP
    if found.st_mode & bit:
        return False
    folder.chmod(stat.S_IMODE(found.st_mode) | bit)
    return True


def make_private_folder(folder: Path, user: ServerUser) -> None:
    """Make a folder that only ``user`` (and root) can enter, or check that it is one.

    Raises
    ------
    ConfigurationError
        When the name is taken by somebody else's folder, or by a file or a link: in a temporary
        folder anyone could have put it there.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (user.uid, os.geteuid()):
        raise ConfigurationError(
            f"{folder}: expected a folder of user {user.uid} for the server's socket, found "
            f"something of user {found.st_uid}. Remove it, or name another folder in "
            "ASTROPT_DB_HOME."
        )
    user.own(folder, 0o700)


def write_private(path: Path, text: str, user: ServerUser) -> None:
    """Write a file that only ``user`` and root can read, whole or not at all."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    fresh = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            os.fchown(descriptor, user.uid, user.gid)
            file.write(text)
        fresh.replace(path)
    except OSError:
        fresh.unlink()
        raise
