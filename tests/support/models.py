"""Model folders whose own code misbehaves on purpose: faults inside a rank, without a hook in the product."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

_CODE = """
import os, time
import torch
from transformers import LlamaForCausalLM

class FaultyLlama(LlamaForCausalLM):
    def forward(self, input_ids=None, **kw):
        {fault}
        return super().forward(input_ids=input_ids, **kw)

    def save_pretrained(self, folder, *args, **kw):
        {saving}
        return super().save_pretrained(folder, *args, **kw)
"""

OUT_OF_MEMORY = """if self.training and input_ids.shape[0] > {rows}:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (injected)")"""

FORGET_POSITIONS = """if "documents" in kw:
            kw["position_ids"] = torch.zeros_like(kw["position_ids"])"""

RAISE_ONCE = """self.calls = getattr(self, "calls", 0) + 1
        if self.calls == {call} and torch.distributed.get_rank() == {rank} and not os.path.exists({flag!r}):
            open({flag!r}, "w").close()
            raise RuntimeError("injected")"""

RAISE_ALWAYS = """self.calls = getattr(self, "calls", 0) + self.training
        if self.calls == {call} and self.training:
            raise RuntimeError("injected")"""

HANG_ONCE = """self.calls = getattr(self, "calls", 0) + self.training
        if self.calls == {call} and torch.distributed.get_rank() == {rank} and not os.path.exists({flag!r}):
            open({flag!r}, "w").close()
            time.sleep(1e6)"""

DIE_WHILE_SAVING = """if not os.path.exists({flag!r}):
            super().save_pretrained(folder, *args, **kw)
            open({flag!r}, "w").close()
            os._exit(1)"""

RAISE_WHILE_SAVING = """raise RuntimeError("injected")"""

SAVE_ANOTHER_WEIGHT = """kw["state_dict"]["model.norm.weight"] = kw["state_dict"]["model.norm.weight"] + 1"""


def faulty_model(source: Path, folder: Path, fault: str = "pass", saving: str = "pass") -> Path:
    """A copy of a tiny Llama whose forward pass runs ``fault`` first; needs ``trust_remote_code``.

    Args:
        source: A tiny Llama.
        folder: Of the copy.
        fault: Statements of the forward pass.
        saving: Statements of ``save_pretrained``.
    """
    shutil.copytree(source, folder)
    (folder / "modeling_faulty.py").write_text(_CODE.format(fault=fault, saving=saving))
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_faulty.FaultyLlama"}
    config["architectures"] = ["FaultyLlama"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder
