"""What everything that lives in the store's SQLite file has in common: transactions, and errors in words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hierrouter_jax.core.errors import DataError, HierRouterError, StorageError


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit all that the block does, or nothing; other writers wait from its beginning on."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have rolled back by itself
            connection.execute("ROLLBACK")
        raise


@contextmanager
def clear_errors(action: str, what: str, path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours: `action` on `what` at `path` that failed, and a file that is no store."""
    try:
        yield
    except HierRouterError:
        raise
    except sqlite3.OperationalError as error:
        raise StorageError(
            f"{action.capitalize()} {what} {path} failed: {error}. Free space, choose another place, or wait for the "
            "other process; what was stored before is kept."
        ) from error
    except sqlite3.DatabaseError as error:
        raise DataError(
            f"{path} must be a response store, but SQLite says: {error}. Nothing was changed; choose another path."
        ) from error
