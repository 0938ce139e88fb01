"""The study: complete fine-tuning runs over the recipe's hyperparameters, which test the paper's findings.

The design was fixed before the runs (:mod:`benchmarks.study.design`). The runs are one sweep without early stopping;
``docs/explanation/findings.md`` is computed from the table of their steps.
"""
