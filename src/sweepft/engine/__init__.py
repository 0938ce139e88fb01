"""The only home of torch, deepspeed and models: what one rank does with one trial.

Import its submodules where you need them; this package itself imports nothing heavy, so
that ``sweepft.engine.schedules`` and ``sweepft.engine.batches`` stay usable without torch.
"""
