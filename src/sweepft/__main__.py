"""``python -m sweepft``."""

from sweepft.cli.main import main

main()
