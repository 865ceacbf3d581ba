"""Files and folders appear and disappear as a whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cooper import files
from cooper.files import claim, discard, part_of, publish, remove_leftovers, write_atomically
from cooper.files import write_failure as why


def filled(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_publish_takes_the_place_of_an_earlier_folder(tmp_path: Path) -> None:
    filled(tmp_path / "it", "old")
    publish(filled(part_of(tmp_path / "it"), "new", "deep/new"), tmp_path / "it")
    assert sorted(p.name for p in (tmp_path / "it").rglob("*")) == ["deep", "new", "new"]
    assert [p.name for p in tmp_path.iterdir()] == ["it"]


def test_publish_syncs_every_file_before_the_name_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(files, "sync", lambda path: done.append(path.name))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("renamed"), replace(a, b)))
    publish(filled(tmp_path / "part", "a", "deep/b"), tmp_path / "it")
    named = done.index("renamed", done.index("b"))
    assert {"part", "deep", "a", "b"} <= set(done[:named])
    assert done[-1] == tmp_path.name


def test_discard_takes_the_name_away_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled(tmp_path / "000001", "trainer.pt")
    # As when the process is killed before the first file is removed.
    monkeypatch.setattr(files.shutil, "rmtree", lambda *_, **__: None)
    discard(folder)
    monkeypatch.undo()
    assert not folder.exists()
    assert len(list(tmp_path.iterdir())) == 1
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []
    discard(folder)  # there is none


def test_only_leftovers_are_removed_and_young_ones_may_stay(tmp_path: Path) -> None:
    filled(tmp_path, ".a.part", ".b.1.gone/x", ".hidden", "c.part", ".c.party")
    remove_leftovers(tmp_path, older_than=60)
    assert len(list(tmp_path.iterdir())) == 5
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".c.party", ".hidden", "c.part"]
    remove_leftovers(tmp_path / "none")


def test_a_file_that_cannot_be_written_is_named_and_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "it", b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        write_atomically(tmp_path / "it", b"new")
    assert raised.value.filename == str(tmp_path / "it")
    assert (tmp_path / "it").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["it"]


def test_a_claim_keeps_others_out_until_it_is_closed(tmp_path: Path) -> None:
    first = claim(tmp_path)
    assert first is not None
    with pytest.raises(BlockingIOError):
        claim(tmp_path)
    os.close(first)
    again = claim(tmp_path)
    assert again is not None
    os.close(again)


def test_why_writing_failed() -> None:
    full = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert why(RuntimeError(full)) == "No space left on device"
    assert why(RuntimeError(full), full_disk=True) == "No space left on device"
    denied = PermissionError(errno.EACCES, "Permission denied")
    assert why(denied) == "Permission denied"
    assert why(denied, full_disk=True) is None
    wrapped = RuntimeError("unexpected pos 704 vs 598")
    wrapped.__context__ = OSError(errno.EFBIG, "File too large")
    assert why(wrapped) == "File too large"
    assert why(RuntimeError("[enforce fail at inline_container.cc:672]")) is not None
    assert why(ValueError("a bug")) is None
