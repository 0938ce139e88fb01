"""A run folder in the making, and what of it must come back from a mirror."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from support.tracked_run import TrackedRun

TRUTH = ("spec.yaml", "study.journal", "ledger/ledger.jsonl", "ledger/commands.jsonl")
WHOLE = ("weights", "items", "checkpoints")


class MirroredRun(TrackedRun):
    """Writes rows, and files as a sweep does: under another name, then renamed."""

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        super().__init__(run_dir)
        (run_dir / "spec.yaml").write_text("name: my-sweep\n")
        for name in ("logs", "cache", "base", "ray"):
            (run_dir / name).mkdir()
            (run_dir / name / "large").write_bytes(bytes(1000))

    def weights(self, name: str, data: bytes = b"w" * 300) -> None:
        self._folder("weights", name, {"config.json": b"{}", "model.safetensors": data})

    def state(self, name: str, samples: int) -> None:
        files = {
            "rank0.safetensors": os.urandom(200),
            "rank0.sha256": b"digest",
            "complete.json": b'{"world_size": 1}',
        }
        self._folder(f"checkpoints/{name}", str(samples), files)
        for older in (self.run_dir / "checkpoints" / name).iterdir():
            if older.name != str(samples):
                shutil.rmtree(older)

    def items(self, name: str) -> None:
        self._folder("items", name, {"gsm8k.jsonl.gz": b"items"})

    def study(self, lines: int) -> None:
        with (self.run_dir / "study.journal").open("a") as file:
            file.writelines(f'{{"op": {i}}}\n' for i in range(lines))

    def new_study(self, lines: int) -> None:
        """Replace it, as a resume does."""
        new = self.run_dir / "study.journal.new"
        new.write_text("".join(f'{{"again": {i}}}\n' for i in range(lines)))
        os.replace(new, self.run_dir / "study.journal")

    def report(self, text: str) -> None:
        (self.run_dir / "report.html").write_text(text)

    def best(self, name: str) -> None:
        shutil.rmtree(self.run_dir / "best", ignore_errors=True)
        (self.run_dir / "best").mkdir()
        for file in (self.run_dir / "weights" / name).iterdir():
            os.link(file, self.run_dir / "best" / file.name)
        (self.run_dir / "best" / "README.md").write_text("the winner")

    def _folder(self, top: str, name: str, files: dict[str, bytes]) -> None:
        folder = self.run_dir / top / name
        new = folder.with_name(f".{name}.tmp")
        new.mkdir(parents=True)
        for file, data in files.items():
            (new / file).write_bytes(data)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def truth(run_dir: Path) -> dict[str, bytes]:
    """What a mirror must bring back, byte by byte."""
    files = [run_dir / name for name in TRUTH]
    files += [p for top in WHOLE for p in (run_dir / top).rglob("*")]
    return {str(p.relative_to(run_dir)): p.read_bytes() for p in files if p.is_file()}
