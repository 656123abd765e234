"""`python -m megaphi` is the command `megaphi`."""

import sys

from megaphi.cli import main

if __name__ == "__main__":
    sys.exit(main())
