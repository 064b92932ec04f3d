"""The entry point, also as `python -m neuroscan_farm`; small, so that Ctrl-C is answered from the first moment."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    try:
        from neuroscan_farm.cli.main import run_guarded, run_program
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run_guarded(run_program))


if __name__ == "__main__":
    main()
