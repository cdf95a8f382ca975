"""`python -m oncebox.demo`: the demo with its defaults."""

from __future__ import annotations

import sys

from oncebox.errors import OnceboxError

from . import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except OnceboxError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
