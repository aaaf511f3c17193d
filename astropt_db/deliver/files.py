"""Files that are whole or not there: written beside the target, synced, renamed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from astropt_db.errors import ConfigurationError, FileError


def check_target(target: Path, overwrite: bool) -> None:
    """See that a file or folder can be made there, before any work is done.

    Raises
    ------
    ConfigurationError
        If it exists and may not be overwritten, is something else than a file or folder of
        ours, or its folder does not exist.
    """
    if not target.parent.is_dir():
        raise ConfigurationError(f"there is no folder {target.parent}; make it first")
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise ConfigurationError(f"{target} is neither a file nor a folder; name a file")
    if target.exists() and not overwrite:
        raise ConfigurationError(f"{target} exists; --overwrite replaces it")


@contextmanager
def new_file(target: Path, overwrite: bool = False) -> Iterator[BinaryIO]:
    """A binary file that appears under its name only when the block ends well.

    Raises
    ------
    ConfigurationError
        As :func:`check_target`.
    FileError
        If the disk is full or the file cannot be written; nothing is left behind.
    """
    check_target(target, overwrite)
    if target.is_dir():
        raise ConfigurationError(f"{target} is a folder; name a file")
    part = _beside(target)
    try:
        with part.open("wb") as stream:
            yield cast("BinaryIO", stream)
            stream.flush()
            os.fsync(stream.fileno())
        check_target(target, overwrite)
        part.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path, mark: str, overwrite: bool = False) -> Iterator[Path]:
    """A folder that appears under its name only when the block ends well.

    Parameters
    ----------
    mark
        Name of a file that every folder of this kind holds; no other folder is overwritten.

    Raises
    ------
    ConfigurationError
        As :func:`check_target`, or if a file or another folder is there.
    FileError
        If the disk is full or the folder cannot be written; nothing is left behind.
    """
    check_target(target, overwrite)
    if target.is_file():
        raise ConfigurationError(f"{target} is a file; name a folder")
    if target.is_dir() and not (target / mark).is_file():
        raise ConfigurationError(
            f"{target} is not replaced: a folder without {mark} is not of this kind; name another"
        )
    part = _beside(target)
    try:
        part.mkdir()
        yield part
        for path in part.rglob("*"):
            _sync(path)
        _sync(part)
        check_target(target, overwrite)
        if target.is_dir():
            old = _beside(target).with_suffix(".old")
            target.rename(old)
            part.rename(target)
            shutil.rmtree(old)
        else:
            part.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_error(target: Path, error: OSError) -> FileError:
    """What to tell about a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FileError(
            target,
            "the disk is full; nothing was left there.",
            "Make room, or name a file on another disk",
        )
    reason = error.strerror or str(error)
    return FileError(target, f"cannot be written: {reason}.", "Check the folder and its rights")


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.part")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    # Some network file systems cannot sync a folder; the file itself is safe then.
    with suppress(OSError):
        _sync(folder)
