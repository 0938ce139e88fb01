"""Homes and temporary folders of clusters: missing, read-only, without an account, or with a long path."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from support.errors import raises
from sweepft.driver import environment
from sweepft.driver.environment import use_short_temp_folder, use_writable_home
from sweepft.errors import ResourceError
from sweepft.training import writable_home
from sweepft.training.writable_home import use_writable_caches

_VARIABLES = (
    *("TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "TRITON_HOME", "HF_HOME", "HF_DATASETS_CACHE"),
    *("HF_MODULES_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "RAY_AUTH_TOKEN"),
    *("RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR", "TMPDIR"),
)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's environment without settings of its own; what a test sets is undone."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in _VARIABLES:
        os.environ.pop(name, None)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    os.environ["HOME"] = str(tmp_path / "home")
    return tmp_path / "home"


def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing below a folder can be written. The tests may run as root, whom modes do not stop."""

    def can_write(path: Path) -> bool:
        return folder not in (path, *path.parents)

    monkeypatch.setattr(writable_home, "can_write", can_write)
    monkeypatch.setattr(environment, "can_write", can_write)


def test_use_writable_home__leaves_a_good_home(home: Path, tmp_path: Path) -> None:
    said: list[str] = []
    use_writable_home(tmp_path / "run", said.append)
    assert not said
    assert not (tmp_path / "run").exists()
    assert not {*_VARIABLES} & os.environ.keys()


def test_use_writable_home__read_only_home(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".cache" / "huggingface" / "hub").mkdir(parents=True)
    read_only(home, monkeypatch)
    said: list[str] = []
    use_writable_home(tmp_path / "run", said.append)
    (line,) = said
    assert str(tmp_path / "run" / "home") in line
    assert (tmp_path / "run" / "home").stat().st_mode & 0o777 == 0o700
    for name in ("TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "HF_DATASETS_CACHE", "HF_MODULES_CACHE"):
        assert Path(os.environ[name]).parent == tmp_path / "run" / "home"
    assert "HF_HUB_CACHE" not in os.environ, "downloaded models are still read there"
    assert os.environ["HOME"] == str(home)
    assert len(os.environ["RAY_AUTH_TOKEN"]) >= 32
    use_writable_home(tmp_path / "run", said.append)
    assert len(said) == 1, "once"


def test_use_writable_home__keeps_what_the_user_has_set(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_only(home, monkeypatch)
    own = dict.fromkeys(("TORCH_EXTENSIONS_DIR", "HF_DATASETS_CACHE", "RAY_AUTH_TOKEN"), "/own")
    os.environ.update(own)
    use_writable_home(tmp_path / "run", lambda text: None)
    assert {name: os.environ[name] for name in own} == own


@pytest.mark.parametrize("home", ["/proc/missing/home", ""])
def test_use_writable_caches__without_a_home(home: str, tmp_path: Path) -> None:
    os.environ["HOME"] = home
    text = use_writable_caches(tmp_path / "own")
    assert os.environ["HOME"] == str(tmp_path / "own")
    assert "no home folder" in text


def test_use_writable_caches__user_without_a_name(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id without an account, as with ``docker --user``; compilers of torch ask for a name."""
    import getpass
    import pwd

    def nobody(uid: int) -> None:
        raise KeyError(f"uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        os.environ.pop(name, None)
    use_writable_caches(tmp_path / "own")
    assert getpass.getuser() == f"uid{os.getuid()}"


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("kind", ["long", "missing", "file", "relative"])
def test_use_short_temp_folder__replaces_a_bad_one(name: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    bad = {
        "long": str(tmp_path / ("x" * 120)),
        "missing": "/proc/missing",
        "file": str(tmp_path / "file"),
        "relative": "tmp",
    }
    os.environ[name] = bad[kind]
    said: list[str] = []
    use_short_temp_folder(said.append)
    assert said[0].startswith(f"{name}={bad[kind]}: ")
    assert len(os.environ["TMPDIR"]) < 40
    assert "RAY_TMPDIR" not in os.environ
    assert tempfile.gettempdir() == os.environ["TMPDIR"]
    use_short_temp_folder(said.append)
    assert len(said) == 1, "once"


def test_use_short_temp_folder__leaves_a_good_one() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.environ["TMPDIR"] = folder
        use_short_temp_folder(pytest.fail)
        assert os.environ["TMPDIR"] == folder


def test_use_short_temp_folder__none_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "can_write", lambda path: False)
    with raises(ResourceError, "temp_dir"):
        use_short_temp_folder(lambda text: None)
