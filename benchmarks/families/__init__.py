"""Tiny random models of many families, trained, exported and read back: the table of ``docs/reference/models.md``."""
