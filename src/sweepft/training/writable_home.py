"""Places for caches where the home folder cannot be written, as with read-only images and user ids without an account.

Libraries write compiled code and downloads below the home folder. Only what would be written is moved: a model cache
in a read-only home stays in use. Usable without torch.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path
from typing import Final

_MOVED: Final = {
    "TORCH_EXTENSIONS_DIR": ("XDG_CACHE_HOME", ".cache", "torch_extensions"),  # DeepSpeed's compiled ops
    "TRITON_CACHE_DIR": ("TRITON_HOME", "", ".triton/cache"),
    "HF_DATASETS_CACHE": ("HF_HOME", ".cache/huggingface", "datasets"),
    "HF_MODULES_CACHE": ("HF_HOME", ".cache/huggingface", "modules"),
}
"""Variable to set: the variable that moves its parent, that parent's default below the home folder, and its name."""

_HUB: Final = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")


def use_writable_caches(folder: Path) -> str | None:
    """Point this process and its children to caches below ``folder`` where the home folder cannot be written.

    Variables that the user has set are left alone.

    Args:
        folder: Created, private, when it is needed.
    Returns:
        What was done, as a sentence; None where the home folder is fine.
    """
    _name_the_user()
    home = _home()
    if home is None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ["HOME"] = str(folder)
        return f"there is no home folder: caches go to {folder}"
    moved = []
    for name, (mover, parent, own) in _MOVED.items():
        usual = Path(os.environ[mover]) if os.environ.get(mover) else home / parent
        if not os.environ.get(name) and not can_write(usual / own):
            os.environ[name] = str(folder / own.replace(".", "").replace("/", "-"))
            moved.append(name)
    hub = Path(os.environ.get("HF_HOME") or home / ".cache/huggingface") / "hub"
    if not any(map(os.environ.get, _HUB)) and not hub.is_dir() and not can_write(hub):
        os.environ[_HUB[0]] = str(folder / "hub")
        moved.append(_HUB[0])
    if not moved:
        return None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return f"{home} cannot be written: caches go to {folder} ({', '.join(moved)})"


def can_write(folder: Path) -> bool:
    """Whether files can be written into a folder; it is created if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _home() -> Path | None:
    """The home folder; None if there is none and none can be made."""
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an account
        return None
    if os.environ.get("HOME") == "" or not home.is_absolute():
        return None
    return home if home.is_dir() or can_write(home) else None


def _name_the_user() -> None:
    """Libraries ask for the user's name, which a user id without an account lacks."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid{os.getuid()}"
