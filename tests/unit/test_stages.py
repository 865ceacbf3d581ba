"""Stages are built once per setting, and a failed one leaves nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cooper import stages
from cooper.files import claim
from cooper.stages import StageCache


class Builds:
    """Writes its number into the folder, and counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, folder: Path) -> None:
        self.count += 1
        (folder / "out.txt").write_text(str(self.count))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, said: list[str]) -> StageCache:
    return StageCache(tmp_path / "cache", say=said.append)


def test_hit(cache: StageCache, said: list[str]) -> None:
    build = Builds()
    first = cache.folder("warm", {"lr": 1.0, "steps": 3}, build)
    again = cache.folder("warm", {"steps": 3, "lr": 1.0}, build)  # order does not matter
    assert first == again
    assert (build.count, (first / "out.txt").read_text()) == (1, "1")
    assert "built" in said[0]
    assert "cache" in said[1]


@pytest.mark.parametrize("other", [{"lr": 2.0}, {"lr": 1.0, "steps": 1}, {"lr": "1.0"}])
def test_another_setting_is_another_folder(cache: StageCache, other: dict[str, object]) -> None:
    build = Builds()
    first = cache.folder("warm", {"lr": 1.0}, build)
    assert cache.folder("warm", other, build) != first
    assert build.count == 2
    assert (first / "out.txt").read_text() == "1"


def test_another_stage_is_another_folder(cache: StageCache) -> None:
    build = Builds()
    assert cache.folder("a", {}, build) != cache.folder("b", {}, build)
    assert build.count == 2


def test_changed_code_is_built_anew(cache: StageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Builds()
    cache.folder("warm", {}, build)
    monkeypatch.setattr(stages, "source_digest", lambda: "other")
    cache.folder("warm", {}, build)
    assert build.count == 2


def test_the_code_behind_the_stages_is_all_there() -> None:
    """A module renamed or moved would silently drop out of the digest."""
    root = Path(stages.__file__).parent
    for name in stages._SOURCES:
        assert (root / name).exists(), name


def test_disabled_builds_anew(tmp_path: Path) -> None:
    build = Builds()
    cache = StageCache(tmp_path, enabled=False, say=lambda _: None)
    cache.folder("warm", {}, build)
    folder = cache.folder("warm", {}, build)
    assert (folder / "out.txt").read_text() == "2"
    assert StageCache(tmp_path, say=lambda _: None).folder("warm", {}, build) == folder
    assert build.count == 2


def test_a_failed_stage_leaves_nothing(cache: StageCache) -> None:
    def fails(folder: Path) -> None:
        (folder / "half.txt").touch()
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        cache.folder("warm", {}, fails)
    assert list((cache.root / "warm").iterdir()) == []
    folder = cache.folder("warm", {}, Builds())
    assert sorted(p.name for p in folder.iterdir()) == ["out.txt", "settings.json"]


def test_a_folder_without_settings_is_not_taken(cache: StageCache) -> None:
    folder = cache.folder("warm", {}, Builds())
    (folder / "settings.json").unlink()
    build = Builds()
    assert cache.folder("warm", {}, build) == folder
    assert build.count == 1


def test_what_killed_processes_left_goes_unless_it_is_young_or_being_built(
    cache: StageCache,
) -> None:
    parent = cache.root / "warm"
    names = (".dead.building", ".alive.building", ".young.building", ".x.1.gone")
    for name in names:
        (parent / name).mkdir(parents=True)
        if "young" not in name:
            os.utime(parent / name, (1e9, 1e9))
    held = claim(parent / ".alive.building")
    assert held is not None
    folder = cache.folder("warm", {}, Builds())
    os.close(held)
    left = sorted(path.name for path in parent.iterdir())
    assert left == sorted([".alive.building", ".young.building", folder.name])
