"""Whole commands: run a sweep, resume it, and show it live."""
