"""How every experiment ends when its input is wrong: a message and exit code 2, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from hierrouter_jax.core.errors import HierRouterError


def run(main: Callable[[], None]) -> None:
    """Call `main`; exit with code 2 and the message of a `HierRouterError`."""
    try:
        main()
    except HierRouterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
