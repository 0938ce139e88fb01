"""DeepSpeed's CPU communication op: compiled once on a machine, loaded by every rank.

torch protects such builds with a file named ``lock`` that other processes wait for without limit. A builder that is
killed leaves it behind, indistinguishable from the lock of a live one. sweepft's processes therefore first take a
kernel lock, which ends with its process, and mark the build with a note file: a process that holds the kernel lock and
finds a note knows that the author of the note is dead.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sweepft.files import atomic_write
from sweepft.training.file_lock import file_lock

_OP = "deepspeed_shm_comm"
_PATIENCE = 540.0  # shorter than the coordinator's own wait for its ranks
_STALE_SECONDS = 600.0


def load_op() -> None:
    """Load the op into this process for DeepSpeed; compile it first where that has not been done.

    Raises:
        RuntimeError: If the build fails, or another program's build does not end (see `hold_op_lock`).
    """
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    with hold_op_lock(_build_folder()):
        ShareMemCommBuilder().load(verbose=False)


@contextlib.contextmanager
def hold_op_lock(folder: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """Keep other sweepft processes, on any machine that sees the folder, from building or loading the op meanwhile.

    On entry torch's ``lock`` is gone: the lock of a killed sweepft process is removed at once, as is any that is ten
    minutes old; another program's lock is waited for.

    Args:
        folder: Where torch builds the op.
        patience: Seconds to wait for another program.
    Raises:
        RuntimeError: If the other program's lock is still there after that time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, note = folder / "lock", folder / "sweepft.building"
    with file_lock(folder / "sweepft.lock") as exclusive:
        if exclusive and note.exists():
            lock.unlink(missing_ok=True)
        _wait_for_others(lock, patience)
        atomic_write(note, "", sync=False)
        try:
            yield
        finally:
            note.unlink(missing_ok=True)


def own_tools_first() -> None:
    """Put this interpreter's own ``bin`` first on PATH.

    DeepSpeed builds its op with the first ninja on PATH, and each version of ninja takes what another version built
    for out of date: every start of a rank would compile for half a minute.
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
                f"{lock}: another program is building DeepSpeed's communication op, or was killed while it did: not "
                f"finished in {patience:.0f} s; end that program, or remove the file if there is none, and run again"
            )
        time.sleep(0.1)


def main() -> int:
    """Build the op, or print what is missing. Returns the exit code."""
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
