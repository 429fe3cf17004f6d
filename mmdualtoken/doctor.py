"""``python -m mmdualtoken.doctor``: a table of everything the project needs."""

import sys

from mmdualtoken.environment.doctor import main

if __name__ == "__main__":
    sys.exit(main())
