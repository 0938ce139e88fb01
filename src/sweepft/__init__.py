"""Hyperparameter sweeps for supervised fine-tuning of small language models.

Importing this package loads nothing heavy; take what you need from its modules, e.g.
``from sweepft.schedulers import EarlyDynamicsScheduler``.
"""

__all__ = ["__version__"]
__version__ = "0.1.0"
