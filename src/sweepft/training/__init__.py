"""What one rank does with one trial; the only package that uses torch, DeepSpeed and models.

Import submodules where they are needed. This package itself imports nothing heavy: ``config``, ``lr_schedules``,
``batching``, ``rendezvous`` and ``file_lock`` are usable without torch.
"""
