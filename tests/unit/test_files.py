"""Files are written as a whole, never through a link, and never outside the folder that is meant."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from support.errors import raises
from sweepft.errors import UnsafePath
from sweepft.files import (
    atomic_folder,
    atomic_write,
    inside,
    open_named,
    open_to_append,
    open_to_read,
    write_output,
)


@pytest.mark.parametrize(
    "part", ["..", "/etc", "a/../../b", "", ".", "a//b", "a\0b", "x" * 300, "/", "../run2", "a/"]
)
def test_inside__refuses_ways_out(tmp_path: Path, part: str) -> None:
    with raises(UnsafePath, "run_dir.path"):
        inside(tmp_path, "weights", part)


def test_inside__refuses_links_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    run = tmp_path / "run"
    run.mkdir()
    (run / "weights").symlink_to(tmp_path / "private")
    (run / "broken").symlink_to(tmp_path / "nothing")
    for parts in (("weights",), ("weights", "t000"), ("weights/t000",), ("broken",)):
        with raises(UnsafePath, "run_dir.link"):
            inside(run, *parts)
    assert inside(run, "logs", "a/b.log") == run / "logs" / "a" / "b.log"


def test_atomic_write__replaces_a_link_and_leaves_its_target(tmp_path: Path) -> None:
    target, link = tmp_path / "bashrc", tmp_path / "report.md"
    target.write_text("mine")
    link.symlink_to(target)
    atomic_write(link, "report")
    assert (target.read_text(), link.read_text(), link.is_symlink()) == ("mine", "report", False)
    assert stat.S_IMODE(link.stat().st_mode) == 0o600
    assert {p.name for p in tmp_path.iterdir()} == {"bashrc", "report.md"}


def test_atomic_write__leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    with pytest.raises(OSError, match="director"):
        atomic_write(tmp_path / "folder", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_atomic_folder__keeps_the_old_one_if_the_block_raises(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    with atomic_folder(folder) as new:
        (new / "a").touch()
    with pytest.raises(ValueError, match="no"), atomic_folder(folder) as new:
        raise ValueError("no")
    assert [p.name for p in folder.iterdir()] == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_atomic_folder__replaces_a_link_and_leaves_its_target(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").touch()
    (tmp_path / "best").symlink_to(tmp_path / "private")
    with atomic_folder(tmp_path / "best") as new:
        (new / "README.md").touch()
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["README.md"]
    assert [p.name for p in (tmp_path / "private").iterdir()] == ["key"]


def test_open__refuses_links_pipes_and_devices(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        for opened in (open_to_append, open_to_read):
            with pytest.raises(OSError, match=r"is a symbolic link|not a regular file"):
                opened(tmp_path / name)
    with pytest.raises(OSError, match="not a regular file"):
        open_to_read("/dev/zero", links=True)
    with open_to_read(tmp_path / "link", links=True) as file:
        assert file.read() == b"x"


def test_write_output__writes_to_a_device_and_through_the_users_link(tmp_path: Path) -> None:
    write_output("/dev/null", "x")
    assert not Path("/dev/null").is_file()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_output(tmp_path / "link", "x")
    assert (tmp_path / "target").read_text() == "x"


def test_open_named__no_pipe_without_a_writer_and_no_device(tmp_path: Path) -> None:
    """Opening such a pipe would wait without end; what the shell passes is read."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="regular"):
            open_named(path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    reader, writer = os.pipe()
    os.write(writer, b"x")
    os.close(writer)
    for path in (tmp_path / "link", Path(f"/dev/fd/{reader}")):
        with open_named(path) as file:
            assert file.read() == b"x"
    os.close(reader)
