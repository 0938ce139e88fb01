"""``python -m sweepft``."""

from sweepft.cli.process import main

main()
