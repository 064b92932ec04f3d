"""`python -m neuroscan_farm`: the same as the console script."""

from neuroscan_farm.cli.main import main

main()
