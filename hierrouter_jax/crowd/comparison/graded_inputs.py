"""Inputs with what a perfect worker would answer, as JSONL: {"text": ..., "gold": {...}} a line.

What `gold` holds is the algorithm's own affair (`grading.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hierrouter_jax.core.errors import DataError, raise_all


@dataclass(frozen=True, kw_only=True)
class GradedInput:
    """A text, and what is known of it; without gold, an input that only votes can judge."""

    text: str
    gold: Mapping[str, Any] = field(default_factory=dict)


def read_inputs(path: Path) -> list[GradedInput]:
    """Read the inputs of a file; one `DataError` naming every line that is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"There is no file of inputs at {path}; give the path of an existing one.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} must be JSONL in UTF-8, but reading it failed: {error}.") from error
    inputs, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        is_input = isinstance(data, dict) and isinstance(data.get("text"), str) and data["text"].strip()
        if not is_input or not isinstance(data.get("gold", {}), dict) or set(data) - {"text", "gold"}:
            problems.append(f'line {number}: must be an object with "text" and perhaps "gold", an object')
            continue
        inputs.append(GradedInput(text=data["text"], gold=data.get("gold", {})))
    raise_all(DataError, f"Every line of {path} must be an input:", problems)
    if not inputs:
        raise DataError(f'{path} holds no input; give one {{"text": ...}} a line.')
    return inputs
