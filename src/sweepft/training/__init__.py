"""The only home of torch, deepspeed and models: what one rank does with one trial.

Import its submodules where you need them; this package itself imports nothing heavy, so
that ``sweepft.training.lr_schedules`` and ``sweepft.training.batching`` stay usable without torch.
"""
