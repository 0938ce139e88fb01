"""The study: fine-tunings run to their end over the recipe's settings, and what they say on the paper's findings.

One idea: the design is written down before a run is made (:mod:`benchmarks.study.design`), the runs are one sweep
of sweepft's own that stops nobody, and every sentence of ``docs/explanation/findings.md`` is computed from the table
they leave.
"""
