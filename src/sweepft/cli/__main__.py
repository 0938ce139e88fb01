"""``python -m sweepft.cli``."""

from sweepft.cli.main import main

main()
