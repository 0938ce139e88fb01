"""DeepSpeed's CPU communication op: compiled once on a machine, loaded by every rank.

torch guards such builds by a file named ``lock``, made by whoever builds and waited for, without end, by everybody
else: a builder that is killed leaves it behind, and no process can tell it from a living one's. The idea to keep in
mind: our processes take a lock of the kernel's first, which goes with its process, and note under it that they are
at it. Who holds the kernel's lock and finds such a note knows that its author is dead.
"""
# MERGED Build DeepSpeed's CPU communication op once, at set-up, with a message a person can act on.

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sweepft.training.file_lock import file_lock

_OP = "deepspeed_shm_comm"


_PATIENCE = 540.0  # of a rank, before those who wait for it lose theirs


_STALE_SECONDS = 600.0


def load_op() -> None:
    """Load the op into this process, where DeepSpeed then finds it; compile it where that has not been done.

    Raises:
        RuntimeError: If the build fails, or another program's build does not end (see `hold_op_lock`).
    """
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    with hold_op_lock(_build_folder()):
        ShareMemCommBuilder().load(verbose=False)


@contextlib.contextmanager
def hold_op_lock(folder: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """No other process of ours, on any machine that sees the folder, builds or loads the op meanwhile.

    On entry torch's ``lock`` is gone: that of a process of ours that was killed is removed at once, as is any that is
    ten minutes old; another program's is waited for.

    Args:
        folder: Where torch builds the op.
        patience: Seconds that another program may take.
    Raises:
        RuntimeError: If its lock is still there then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, note = folder / "lock", folder / "sweepft.building"
    with file_lock(folder / "sweepft.lock") as sure:
        if sure and note.exists():
            lock.unlink(missing_ok=True)
        _wait_for_others(lock, patience)
        note.touch()
        try:
            yield
        finally:
            note.unlink(missing_ok=True)


def own_tools_first() -> None:
    """Put this interpreter's own ``bin`` first on PATH.

    DeepSpeed builds its op with the ninja it finds there, and two versions of ninja each take what the other built for
    out of date: every start of a rank would compile for half a minute.
    """
    own = str(Path(sys.executable).parent)
    rest = [p for p in os.environ.get("PATH", "").split(os.pathsep) if p != own]
    os.environ["PATH"] = os.pathsep.join([own, *rest])


def _build_folder() -> Path:
    from torch.utils.cpp_extension import _get_build_directory

    return Path(_get_build_directory(_OP, verbose=False))


def _wait_for_others(lock: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            age = time.time() - lock.stat().st_mtime
        except FileNotFoundError:
            return
        if age > _STALE_SECONDS:
            lock.unlink(missing_ok=True)
            return
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{lock}: another program builds DeepSpeed's communication op, or was killed while it did: no end in "
                f"{patience:.0f} s; end that program, or remove the file if there is none, and run again"
            )
        time.sleep(0.1)


def main() -> int:
    """Build the op, or say what is missing. Returns the exit code."""
    own_tools_first()
    os.environ.setdefault("DS_ACCELERATOR", "cpu" if not _has_cuda() else "cuda")
    if os.environ["DS_ACCELERATOR"] != "cpu":
        return 0
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    if missing:
        print(
            f"setup: {' and '.join(missing)} missing: DeepSpeed compiles its CPU communication op with them\n"
            "  install them, e.g. apt-get install g++ ninja-build",
            file=sys.stderr,
        )
        return 1
    try:
        load_op()
    except Exception as error:
        print(
            f"setup: DeepSpeed's CPU communication op could not be built: {error}\n"
            "  check that g++ and Python's headers (python3-dev) are installed, then run `make setup` again",
            file=sys.stderr,
        )
        return 1
    return 0


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    sys.exit(main())
