"""Where the user's cache is, how large it may be, and who may write in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfhalf.errors import ConfigError
from tfhalf.system import cache
from tfhalf.system.cache import cache_folder, cache_limit, check_private, make_folder


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TFHALF_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/tfhalf")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path("~/.cache/tfhalf").expanduser()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("~/.cache/tfhalf").expanduser()


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("", 10 << 30),
        (" ", 10 << 30),
        ("0", 0),
        ("12345", 12345),
        ("10GiB", 10 << 30),
        ("1.5 kB", 1500),
        ("2mib", 2 << 20),
        ("1TB", 10**12),
        (" 3 B ", 3),
    ],
)
def test_the_limit_is_a_size(monkeypatch: pytest.MonkeyPatch, text: str, bytes_: int) -> None:
    monkeypatch.setenv("TFHALF_CACHE_LIMIT", text)
    assert cache_limit() == bytes_


@pytest.mark.parametrize("text", ["much", "-1", "10 GiB GiB", "1e9", "10PB", "GiB", "nan", "\u0661GB", "9" * 400])
def test_another_limit_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TFHALF_CACHE_LIMIT", text)
    with pytest.raises(ConfigError, match=r"^TFHALF_CACHE_LIMIT=.* is not a size; accepted: .* such as 10GiB"):
        cache_limit()


def test_a_new_folder_is_the_users_alone(tmp_path: Path) -> None:
    make_folder(tmp_path / "a/b")
    make_folder(tmp_path / "a/b")
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o700
    check_private(tmp_path / "a/b")


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, link, file = (tmp_path / name for name in ("folder", "link", "file"))
    folder.mkdir()
    link.symlink_to(folder)
    file.write_text("")
    for mode in (0o720, 0o702, 0o777, 0o1777):
        folder.chmod(mode)
        with pytest.raises(PermissionError, match="others may write there; chmod go-w"):
            check_private(folder)
    folder.chmod(0o755)
    check_private(folder)
    for path, words in ((link, "it is a link"), (file, "it is not a folder")):
        with pytest.raises(PermissionError, match=words):
            check_private(path)
    user = folder.stat().st_uid
    monkeypatch.setattr(cache.os, "geteuid", lambda: user + 1)
    with pytest.raises(PermissionError, match=f"it belongs to user {user}; set TFHALF_CACHE_DIR"):
        check_private(folder)
