"""What every rank imports; loaded once by the fork server (see ``support.ranks``).

Also what DeepSpeed and transformers would import with the first engine and the first model: two thousand modules, four
seconds of every fresh process.
"""

import contextlib
import os
import sys

os.environ["DS_ACCELERATOR"] = "cpu"  # ranks on a GPU are started without the server
with contextlib.redirect_stdout(sys.stderr):
    import deepspeed
    import deepspeed.runtime.zero.stage3
    import deepspeed.runtime.zero.stage_1_and_2
    import torch
    import torch._dynamo
    import torch._inductor
    import transformers
    import transformers.models.llama.modeling_llama

    import sweepft.training.trainer

__all__ = ["deepspeed", "sweepft", "torch", "transformers"]
