"""The response store: one SQLite file, one row a response, addressed by the digest of the request.

Write-ahead logging with full synchronisation: what `put_many` has returned from is on disk, and a process killed at
any moment, or a disk that fills up, loses at most the transaction in flight. Several processes may use one store at
once (writers wait for each other). A key is written once: a second response for it is ignored, because a request
determines its response. The text of responses lives here and nowhere else; scores of responses are kept beside them
as plain JSON objects.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from hierrouter_jax.core.configs import canonical_json, from_json_dict
from hierrouter_jax.core.errors import DataError, HierRouterError, StorageError
from hierrouter_jax.core.text import EncodedRequest, Response
from hierrouter_jax.store.merging import Conflict, MergeReport, differing_fields
from hierrouter_jax.store.request_keys import request_identity
from hierrouter_jax.store.sqlite_file import clear_errors, transaction

SCHEMA_VERSION = 1
APPLICATION_ID = 0x48525253  # "HRRS" in the file's header says that it is a store of ours
BUSY_TIMEOUT_S = 60.0
KEYS_PER_SELECT = 500  # older SQLite builds accept 999 parameters in a statement

SCHEMA = (
    "CREATE TABLE responses (key TEXT PRIMARY KEY, weights_digest TEXT NOT NULL, request TEXT NOT NULL,"
    " response TEXT NOT NULL, created_s REAL NOT NULL)",
    "CREATE TABLE scores (key TEXT PRIMARY KEY, score TEXT NOT NULL, created_s REAL NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


class ResponseStore:
    """A store at `path`, made when it does not exist. Use it in a `with` block, or `close` it.

    Raises `DataError` when the file is not a store or has another schema version, `StorageError` when the place
    cannot be written or the disk is full.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"The store's folder {self.path.parent} cannot be made: {error}. Choose another place."
            ) from error
        with self._clear_errors("opening"):
            # Transactions are explicit, so the module's own implicit ones are switched off.
            self._connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, uri=False)
        try:
            with self._clear_errors("opening"):
                self._retry_while_locked(self._open_schema)
        except BaseException:
            self._connection.close()
            raise

    def get_many(self, keys: Iterable[str]) -> dict[str, Response]:
        """Return the responses that are there, by key; keys without one are left out."""
        rows = self._select("responses", "response", keys)
        return {key: _response_from_json(value, key, self.path) for key, value in rows}

    def put_many(self, responses: Mapping[str, tuple[EncodedRequest, Response]]) -> int:
        """Commit all of `responses` or, when writing fails, none; return how many keys are new."""
        now = time.time()
        rows = [
            (
                key,
                request.weights_digest,
                canonical_json(request_identity(request)),
                _response_to_json(response, request),
                now,
            )
            for key, (request, response) in responses.items()
        ]
        return self._insert("INSERT OR IGNORE INTO responses VALUES (?, ?, ?, ?, ?)", rows)

    def get_scores(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the scores that are there, by key."""
        return {key: json.loads(value) for key, value in self._select("scores", "score", keys)}

    def put_scores(self, scores: Mapping[str, Mapping[str, Any]]) -> int:
        """Commit scores, JSON objects by key, all or none; return how many keys are new."""
        now = time.time()
        rows = [(key, canonical_json(dict(score)), now) for key, score in scores.items()]
        return self._insert("INSERT OR IGNORE INTO scores VALUES (?, ?, ?)", rows)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return the keys that have no response, each once, in their order."""
        distinct = list(dict.fromkeys(keys))
        there = {key for key, _ in self._select("responses", "key", distinct)}
        return [key for key in distinct if key not in there]

    def merge(self, other_path: str | Path) -> MergeReport:
        """Take over every response and score of another store that this one lacks, in one transaction.

        So a merge that was killed has done nothing, and one that is repeated finds everything there. Under a key that
        both have, this store's value stays; `MergeReport` names where they differ. The other store may be in use.
        Raises `DataError` when it is damaged, or this very store.
        """
        with ResponseStore.existing(other_path) as other:  # checks what it is before anything is copied
            if self.path.samefile(other.path):
                raise DataError(f"{self.path} cannot be merged into itself; name the other stores.")
            other._check_pages()
            other_file = str(other.path)
        with self._clear_errors("merging into"):
            self._connection.execute("ATTACH DATABASE ? AS other", (other_file,))
            try:
                with self._transaction():
                    return self._take_over()
            finally:
                self._connection.execute("DETACH DATABASE other")

    def _take_over(self) -> MergeReport:
        conflicts, counts = [], {}
        for table, column in (("responses", "response"), ("scores", "score")):
            both = f"main.{table} AS ours JOIN other.{table} AS theirs USING (key)"
            rows = self._connection.execute(
                f"SELECT key, ours.{column}, theirs.{column} FROM {both} WHERE ours.{column} <> theirs.{column}"
                " ORDER BY key"
            )
            conflicts += [Conflict(table=table, key=key, fields=differing_fields(*values)) for key, *values in rows]
            num_there = self._connection.execute(f"SELECT COUNT(*) FROM {both}").fetchone()[0]
            inserted = self._connection.execute(f"INSERT OR IGNORE INTO main.{table} SELECT * FROM other.{table}")
            counts[table] = (inserted.rowcount, num_there)
        return MergeReport(
            num_new_responses=counts["responses"][0],
            num_new_scores=counts["scores"][0],
            num_already_there=counts["responses"][1],
            conflicts=tuple(conflicts),
        )

    def _check_pages(self) -> None:
        """Raise `DataError` when the file is damaged, such as a copy that was cut short."""
        with self._clear_errors("reading"):
            verdict = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise DataError(f"{self.path} is damaged: {verdict}. Copy it again, with its -wal file if it has one.")

    @classmethod
    def existing(cls, path: str | Path) -> ResponseStore:
        """Open a store that must be there already; `DataError` when it is not."""
        if not Path(path).is_file():
            raise DataError(f"There is no response store at {path}; give the path of an existing one.")
        return cls(path)

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        self._connection.close()

    def count_by_weights(self) -> dict[str, int]:
        """Return the number of responses of each model, by the digest of its weights."""
        query = "SELECT weights_digest, COUNT(*) FROM responses GROUP BY weights_digest ORDER BY weights_digest"
        with self._clear_errors("reading"):
            return dict(self._connection.execute(query).fetchall())

    def __len__(self) -> int:
        """Return the number of responses."""
        with self._clear_errors("reading"):
            return int(self._connection.execute("SELECT COUNT(*) FROM responses").fetchone()[0])

    def __contains__(self, key: object) -> bool:
        """Return whether the response of this key is there."""
        with self._clear_errors("reading"):
            return self._connection.execute("SELECT 1 FROM responses WHERE key = ?", (key,)).fetchone() is not None

    def __enter__(self) -> ResponseStore:
        """Return the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()

    def _open_schema(self) -> None:
        is_new = self._is_empty()
        if is_new:
            self._connection.execute("PRAGMA journal_mode = WAL")
        else:
            self._check_identity()
        self._connection.execute("PRAGMA synchronous = FULL")
        with self._transaction():
            if is_new and self._is_empty():  # another process may have been first
                for statement in SCHEMA:
                    self._connection.execute(statement)
            else:  # a write that changes nothing says now, not after an hour of generation, whether writing is possible
                self._check_identity()
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _retry_while_locked(self, action: Callable[[], None]) -> None:
        """Run an action that is safe to repeat. SQLite does not wait by itself when two processes both begin a log."""
        deadline_s = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                return action()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline_s:
                    raise
                time.sleep(0.01)

    def _is_empty(self) -> bool:
        return self._connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0

    def _check_identity(self) -> None:
        application_id = self._connection.execute("PRAGMA application_id").fetchone()[0]
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if application_id != APPLICATION_ID:
            raise DataError(
                f"{self.path} must be a response store, but is another SQLite database. "
                "Nothing was changed; choose another path."
            )
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{self.path} has store schema version {version}, but this version of hierrouter_jax reads "
                f"version {SCHEMA_VERSION}. Nothing was changed; use the version that wrote it."
            )

    def _select(self, table: str, column: str, keys: Iterable[str]) -> Iterator[tuple[str, str]]:
        distinct = list(dict.fromkeys(keys))
        for start in range(0, len(distinct), KEYS_PER_SELECT):
            part = distinct[start : start + KEYS_PER_SELECT]
            marks = ",".join("?" * len(part))
            with self._clear_errors("reading"):
                yield from self._connection.execute(
                    f"SELECT key, {column} FROM {table} WHERE key IN ({marks})", part
                ).fetchall()

    def _insert(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> int:
        if not rows:
            return 0
        with self._clear_errors("writing"), self._transaction():
            return self._connection.executemany(statement, rows).rowcount

    def _transaction(self) -> AbstractContextManager[None]:
        return transaction(self._connection)

    def _clear_errors(self, action: str) -> AbstractContextManager[None]:
        return clear_errors(action, "the response store", self.path)


def _response_to_json(response: Response, request: EncodedRequest) -> str:
    if any(math.isnan(value) for value in (response.logprob, *response.option_logprobs)):
        raise DataError(
            f"The log-probability of a response must be a number, but the model of weights "
            f"{request.weights_digest[:12]} gave NaN: its weights or dtype are broken. It was not stored."
        )
    # An impossible option has the log-probability -inf, which canonical JSON refuses and Python's reader accepts.
    return json.dumps(dataclasses.asdict(response), sort_keys=True, separators=(",", ":"))


def _response_from_json(value: str, key: str, path: Path) -> Response:
    try:
        return from_json_dict(Response, json.loads(value), what=f"response {key[:12]}")
    except (json.JSONDecodeError, HierRouterError) as error:
        raise DataError(f"Response {key[:12]} in {path} cannot be read: {error}.") from error
