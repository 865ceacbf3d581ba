"""Files that are there whole or not at all, whatever ends the process: a kill, a full disk.

A name appears by one rename, and what it names is on the disk by then: data that the system still
holds in memory survives a kill, not a power cut, and a rename may reach the disk before the data
do. That matters here, because the last good checkpoint is removed once the next one is there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

_LEFTOVER = re.compile(r"\..+\.(part|gone)")
_OS_ERROR = re.compile(r"([^:]+?) \(os error (\d+)\)")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def part_of(path: Path) -> Path:
    """Where something is made before it gets its name."""
    return path.with_name(f".{path.name}.part")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        OSError: it cannot be written; the error names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    with naming(path):
        try:
            with part.open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):  # a full disk needs the room
                part.unlink(missing_ok=True)
            raise
    sync(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name into an OSError that lacks one, as those of writing and closing do."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def publish(part: Path, folder: Path) -> None:
    """Give a folder that is whole its name, in the place of an earlier one."""
    for inside, _, files in os.walk(part):
        for name in files:
            sync(Path(inside, name))
        sync(Path(inside))
    discard(folder)
    os.replace(part, folder)
    sync(folder.parent)


def discard(folder: Path) -> None:
    """Remove a folder. Its name goes first, so that no half of it is ever taken for the whole."""
    gone = folder.with_name(f".{folder.name}.{os.getpid()}.gone")
    try:
        os.replace(folder, gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file's or a folder's content is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot do that for folders
            os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path, older_than: float = 0.0) -> None:
    """Remove what killed processes left half made or half removed.

    Args:
        folder: looked through, not below.
        older_than: seconds since its last change; for folders in which other processes work.
    """
    for path in folder.glob(".*"):
        with contextlib.suppress(OSError):
            if _LEFTOVER.fullmatch(path.name) and time.time() - path.stat().st_mtime >= older_than:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def claim(folder: Path) -> int | None:
    """Lock a folder for this process; the system gives it back when the process ends, even killed.

    Returns:
        what :func:`os.close` takes to give it back, or None where the file system has no locks.

    Raises:
        BlockingIOError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        os.close(handle)
        return None
    return handle


def write_failure(error: BaseException, full_disk: bool = False) -> str | None:
    """Say why writing failed, or None when the error is another one.

    Libraries hide it: safetensors and tokenizers raise errors of their own with the system's text
    inside, and torch complains about a position in its archive.

    Args:
        error: what was raised.
        full_disk: look for that alone, where more than writing was done.
    """
    cause: BaseException | None = error
    while cause is not None:
        number, text = None, ""
        if isinstance(cause, OSError):
            number, text = cause.errno, cause.strerror or str(cause)
        elif found := _OS_ERROR.search(str(cause)):
            number, text = int(found[2]), found[1].strip()
        if text and (not full_disk or number in _FULL):
            return text
        cause = cause.__cause__ or cause.__context__
    if "inline_container" in str(error):
        return "the file could not be written whole"
    return None
