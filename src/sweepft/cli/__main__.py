"""``python -m sweepft.cli``."""

from sweepft.cli.process import main

main()
