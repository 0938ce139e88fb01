"""Hyperparameter sweeps for supervised fine-tuning of small language models.

Importing this package loads nothing heavy; take what you need from its modules, e.g.
``from sweepft.schedulers import EarlyDynamicsScheduler``.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
