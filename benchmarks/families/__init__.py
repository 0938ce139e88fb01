"""Tiny random models of many families, each trained, exported and read back: the table of ``docs/reference/models.md``."""
