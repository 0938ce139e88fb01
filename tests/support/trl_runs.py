"""Train folders with TRL's own command, one after another in this process: ``python trl_runs.py FOLDER ...``.

Prints a JSON object: the loss of the first step, or the error, by folder. Starting TRL takes most of the time of a run.
"""

from __future__ import annotations

import json
import os
import sys
import traceback


def main() -> None:
    from transformers import TrainerCallback
    from trl.scripts import sft
    from trl.trainer.sft_trainer import SFTTrainer

    losses = []

    class Keep(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            losses.extend([logs["loss"]] if "loss" in (logs or {}) else [])

    first = SFTTrainer.__init__

    def with_callback(self, *args, **kwargs):
        first(self, *args, **kwargs)
        self.add_callback(Keep())

    SFTTrainer.__init__ = with_callback
    found = {}
    for folder in sys.argv[1:]:
        os.chdir(folder)
        losses.clear()
        try:
            command = ["--config", "trl.yaml", "--use_cpu", "true", "--max_steps", "1", "--report_to", "none"]
            sft.main(*sft.make_parser().parse_args_and_config(command, fail_with_unknown_args=True))
            found[folder] = losses[0]
        except Exception as error:
            found[folder] = f"{type(error).__name__}: {error}\n{traceback.format_exc()[-1500:]}"
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
