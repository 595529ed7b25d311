"""Keys of the store: what determines a value, hashed.

A response is determined by its encoded request (weights, token ids, budget, stops, options, sampling); a score by the
benchmark row, the response's text and the version of the scorer. A key is the sha256 (hex) of the canonical JSON of
those things and of a format version, so equal questions meet whichever query, route or run they come from.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from hierrouter_jax.core.configs import digest
from hierrouter_jax.core.text import EncodedRequest

REQUEST_FORMAT = 1  # raise it when engines come to answer the same request otherwise, e.g. rank options by another rule
SCORE_FORMAT = 2  # raise it when other things are kept of a score


def request_key(request: EncodedRequest) -> str:
    """Return the store's key of a request: sha256 (hex) of its identity and the format version."""
    return digest({"format": REQUEST_FORMAT, "request": request_identity(request)})


def request_identity(request: EncodedRequest) -> dict[str, Any]:
    """Return the request as JSON values in one form: a temperature of 1 and one of 1.0 are the same question."""
    identity: dict[str, Any] = request.identity()
    sampling = identity["sampling"]
    identity["sampling"] = {
        name: float(value) if name in ("temperature", "top_p") and value is not None else value
        for name, value in sampling.items()
    }
    return identity


def score_key(row: Any, response_text: str, *, scorer_version: str) -> str:
    """Return the key of a score. `row` is the benchmark row, a dataclass; every field of it counts."""
    text_digest = hashlib.sha256(response_text.encode("utf-8", "surrogatepass")).hexdigest()
    return digest(
        {"format": SCORE_FORMAT, "row": dataclasses.asdict(row), "text": text_digest, "scorer": scorer_version}
    )
