"""A long text in short pieces (Cheng et al. 2015): each piece is put right by itself, then all are joined.

The paper's pieces are of handwriting; a language model sees text, so here a text that is garbled (by scanning, say) is
restored. Pieces are of whole words of one line, side by side, and show the words around them.
"""

from __future__ import annotations

from dataclasses import dataclass

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.algorithms.examples import MAX_EXAMPLES, TRANSCRIBE, TRANSCRIBE_ALL
from hierrouter_jax.crowd.output_schemas import TextSchema
from hierrouter_jax.crowd.subtasks import Pipeline, SubTask, SubTaskFailedError, Together, checked_text, values
from hierrouter_jax.crowd.votes import most_frequent


@dataclass(frozen=True, kw_only=True)
class TranscriptionConfig:
    """Pieces have `piece_words` words, and are shown with `around_words` on both sides.

    Of `redundancy` answers the most frequent counts, of equals the one given first. An answer may be longer than its
    piece by `max_growth_chars` characters.
    """

    piece_words: int = 7
    around_words: int = 5
    redundancy: int = 1
    max_growth_chars: int = 40
    num_examples: int = MAX_EXAMPLES  # that a worker is shown at most
    restore: str = "This piece of a text is garbled. Write it as it was meant, word for word. The text around it helps."
    restore_all: str = "This text is garbled. Write it as it was meant, word for word."

    def __post_init__(self) -> None:
        """Refuse pieces without words."""
        for name, least in (
            ("piece_words", 1),
            ("around_words", 0),
            ("redundancy", 1),
            ("max_growth_chars", 0),
            ("num_examples", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be >= {least}, but is {getattr(self, name)}.")


ROLES = ("transcribe",)


def transcription(text: str, config: TranscriptionConfig) -> Pipeline:
    """Return the pipeline that restores a text; its result has the `text`; `num_failed` pieces stay as they were.

    Lines stay lines; of several spaces between words one is kept.
    """
    lines = _lines_of(text)
    words = [word for line in lines for word in line]
    pieces: list[tuple[int, int, int]] = []  # line, and [start, end) among all words
    first = 0
    for number, line in enumerate(lines):
        starts = range(0, len(line), config.piece_words)
        pieces += [(number, first + start, first + min(start + config.piece_words, len(line))) for start in starts]
        first += len(line)
    found = yield Together([_restored(words, start, end, config) for _, start, end in pieces], keeps_failures=True)
    failures = [one for one in found if isinstance(one, SubTaskFailedError)]
    if len(failures) == len(found):
        raise failures[0]
    restored: list[list[str]] = [[] for _ in lines]
    for (number, start, end), one in zip(pieces, found, strict=True):
        restored[number].append(" ".join(words[start:end]) if isinstance(one, SubTaskFailedError) else one)
    return {"text": "\n".join(" ".join(line) for line in restored), "num_failed": len(failures)}


def one_prompt(text: str, config: TranscriptionConfig) -> Pipeline:
    """Return the baseline: the whole text at once."""
    lines = _lines_of(text)
    shown = "\n".join(" ".join(line) for line in lines)
    num_pieces = sum(-(-len(line) // config.piece_words) for line in lines)
    (found,) = yield SubTask(
        name="one-prompt",
        role="one_prompt",
        instructions=config.restore_all,
        inputs={"text": shown},
        schema=TextSchema(max_chars=len(shown) + config.max_growth_chars * num_pieces),
        examples=TRANSCRIBE_ALL[: config.num_examples],
    )
    return {"text": found.value}


def _lines_of(text: str) -> list[list[str]]:
    """Return the words of each line."""
    return [line.split() for line in checked_text(text).strip().split("\n")]


def _restored(words: list[str], start: int, end: int, config: TranscriptionConfig) -> Pipeline:
    piece = " ".join(words[start:end])
    before = " ".join(words[max(0, start - config.around_words) : start])
    after = " ".join(words[end : end + config.around_words])
    shown = {name: words for name, words in (("text before", before), ("text after", after)) if words}
    found = yield SubTask(
        name="transcribe",
        role="transcribe",
        instructions=config.restore,
        inputs={**shown, "piece": piece},
        schema=TextSchema(max_chars=len(piece) + config.max_growth_chars, is_one_line=True),
        redundancy=config.redundancy,
        examples=TRANSCRIBE[: config.num_examples],
    )
    return most_frequent(values(found))
