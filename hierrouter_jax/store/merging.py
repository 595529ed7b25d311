"""What the merge of one store into another found: how much is new, and where the two disagree.

A request determines its response, so two stores that hold a key should hold one response. They may differ in the last
digits of log-probabilities, which depend on the batch a response was generated in, and in text where two kinds of
machine round to another token. The response that was there stays; what differs is reported, never lost unseen: the
other store is not changed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """A key under which the two stores hold different values; `fields` names what differs."""

    table: str  # responses or scores
    key: str
    fields: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """The outcome of a merge."""

    num_new_responses: int
    num_new_scores: int
    num_already_there: int  # responses of the other store whose key was there
    conflicts: tuple[Conflict, ...]


def differing_fields(ours: str, theirs: str) -> tuple[str, ...]:
    """Return the fields of two JSON objects that differ; `unreadable` where one is none."""
    try:
        first, second = json.loads(ours), json.loads(theirs)
    except json.JSONDecodeError:
        return ("unreadable",)
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return ("unreadable",)
    missing: Any = object()
    names = sorted(first.keys() | second.keys())
    return tuple(name for name in names if first.get(name, missing) != second.get(name, missing))
