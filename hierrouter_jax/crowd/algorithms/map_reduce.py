"""Articles by partition, map and reduce (Kittur et al. 2011, CrowdForge).

    headings = partition(topic)
    facts[heading] = map(heading)               for all headings side by side
    text[heading] = reduce(heading, facts)      once all maps have ended

The outline is one worker's (`plain`), the best rated of several (`rated`), or made of several (`combined`). A fact is a
sentence with its source. A heading without facts, or without a paragraph, is left out and named. The paper's numbers
are the 4 to 8 headings and the 5 ratings from 1 to 5; how many outlines and facts are asked for is chosen here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.algorithms.examples import MAP, MAX_EXAMPLES, PARTITION, fitting, require_num_examples
from hierrouter_jax.crowd.output_schemas import ChoiceSchema, ItemsSchema, TextSchema
from hierrouter_jax.crowd.subtasks import (
    Contribution,
    Pipeline,
    SubTask,
    SubTaskFailedError,
    Together,
    checked_text,
    contributors,
    each_once,
    values,
)

FACT = r"(?is)\W*\w.*\(source:\W*\w.*\)\.?"
SAMPLE_FACT = "Tides follow the moon (source: Harbour Almanac)"
FACT_FORM = f"a sentence and then its source in brackets, as in: {SAMPLE_FACT}"
SHOWN_FACTS = (SAMPLE_FACT, *(fact for example in MAP for fact in example.answer.split("\n")))
_SOURCE = re.compile(r"\(source:.*\)\.?$", re.IGNORECASE | re.DOTALL)
_NO_CONTENT = """
    about after also although because been before being between both could does each from have having into itself just
    like made many more most much only other over same should since some such than that their them then there these
    they this those through under until upon very were what when where which while will with within would your
"""
_SMALL_WORDS = frozenset(_NO_CONTENT.split())
_MIN_WORD_CHARS = 4


@dataclass(frozen=True, kw_only=True)
class MapReduceConfig:
    """Outlines of 4 to 8 headings; of several outlines each is rated 1 to 5 by 5 raters.

    `facts_per_heading` workers collect facts for each heading, up to `max_facts` each. A fact counts as used by a
    paragraph that holds `min_used_share` of its content words.
    """

    variant: Literal["plain", "rated", "combined"] = "plain"
    num_outlines: int = 3
    num_raters: int = 5
    min_rating: int = 1
    max_rating: int = 5
    min_headings: int = 4
    max_headings: int = 8
    facts_per_heading: int = 3
    max_facts: int = 2
    max_heading_chars: int = 100
    max_fact_chars: int = 300
    max_chars: int = 1000  # of a paragraph
    max_article_chars: int = 6000  # of the baseline's text
    min_used_share: float = 0.5
    num_examples: int = MAX_EXAMPLES  # that a worker is shown at most
    partition: str = (
        "Write the outline of an article on this topic: its headings, in their order, without sub-headings."
    )
    rate: str = "Rate this outline of an article on the topic. The highest rating is for the best outline."
    combine: str = "Several outlines were written for an article on this topic. Make one outline of the best of each."
    collect: str = "Collect facts for this section of an article on the topic. Give the source of each."
    reduce: str = "Write one paragraph for this section of an article on the topic. Use every fact that is shown."
    article: str = "Write an article on this topic, with headings and a paragraph of facts under each."

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing to do."""
        names = [name for name in vars(self) if name.startswith(("num_", "max_")) or name == "facts_per_heading"]
        names.remove("num_examples")
        for name in names:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, but is {getattr(self, name)}.")
        require_num_examples(self.num_examples)
        if not 1 <= self.min_headings <= self.max_headings:
            raise ConfigError(
                f"min_headings must lie between 1 and max_headings ({self.max_headings}), but is {self.min_headings}."
            )
        if self.min_rating >= self.max_rating:
            raise ConfigError(f"min_rating must be < max_rating ({self.max_rating}), but is {self.min_rating}.")
        if not 0 < self.min_used_share <= 1:
            raise ConfigError(f"min_used_share must be in (0, 1], but is {self.min_used_share}.")


ROLES = ("partition", "rate", "combine", "map", "reduce")


def map_reduce(topic: str, config: MapReduceConfig) -> Pipeline:
    """Return the pipeline for a topic in words.

    Its result has the `text` (paragraphs under their headings), the `headings` of the outline, the `facts` of each,
    those that their paragraph left `unused`, and the headings that were `left_out`. Raises `SubTaskFailedError` where
    there is no outline, or not one heading gets a paragraph.
    """
    topic = checked_text(topic, what="topic")
    headings = yield from _outline(topic, config)
    facts = yield from _for_each({heading: _mapped(topic, heading, config) for heading in headings})
    paragraphs = yield from _for_each(
        {heading: _reduced(topic, heading, found, config) for heading, found in facts.items()}
    )
    return {
        "text": "\n\n".join(f"{heading}\n{paragraph}" for heading, paragraph in paragraphs.items()),
        "headings": headings,
        "facts": facts,
        "unused": [
            fact
            for heading, paragraph in paragraphs.items()
            for fact in unused_facts(paragraph, facts[heading], min_used_share=config.min_used_share)
        ],
        "left_out": [heading for heading in headings if heading not in paragraphs],
    }


def one_prompt(topic: str, config: MapReduceConfig) -> Pipeline:
    """Return the baseline: one worker, one prompt; its result is {"text": ...}."""
    (found,) = yield SubTask(
        name="one-prompt",
        role="one_prompt",
        instructions=config.article,
        inputs={"topic": checked_text(topic, what="topic")},
        schema=TextSchema(max_chars=config.max_article_chars),
    )
    return {"text": found.value}


def unused_facts(text: str, facts: Sequence[str], *, min_used_share: float = 0.5) -> list[str]:
    """Return the facts of which the text holds less than that share of the content words, their sources apart.

    Content words are those of four letters and more that are no small words, and whatever holds a digit; a fact that
    has none is judged by all its words. A paraphrase counts as a use only as far as it keeps the words.
    """
    known = set(_words(text))
    unused = []
    for fact in facts:
        words = set(_words(_SOURCE.sub("", fact)))
        content = {word for word in words if _is_content(word)} or words
        if len(content & known) < min_used_share * len(content):
            unused.append(fact)
    return unused


def _outline(topic: str, config: MapReduceConfig) -> Pipeline:
    """Return the headings: of one outline, of the best rated, or of one made of several."""
    schema = ItemsSchema(
        min_items=config.min_headings, max_items=config.max_headings, max_item_chars=config.max_heading_chars
    )
    made = yield SubTask(
        name="partition",
        role="partition",
        instructions=config.partition,
        inputs={"topic": topic},
        schema=schema,
        redundancy=1 if config.variant == "plain" else config.num_outlines,
        examples=fitting(PARTITION, schema, num=config.num_examples),
    )
    outlines = values(made)
    if len(outlines) == 1:
        return outlines[0]
    if config.variant == "combined":
        shown = {f"outline {number}": outline for number, outline in enumerate(outlines, start=1)}
        (combined,) = yield SubTask(
            name="combine",
            role="combine",
            instructions=config.combine,
            inputs={"topic": topic} | shown,
            schema=schema,
        )
        return combined.value
    means = yield from _for_each(
        {place: _mean_rating(topic, outline, made, config) for place, outline in enumerate(outlines)}
    )
    return outlines[max(means, key=lambda place: (means[place], -place))]


def _mean_rating(topic: str, outline: list[str], made: Sequence[Contribution], config: MapReduceConfig) -> Pipeline:
    """Return the mean of an outline's ratings; whoever made one of the outlines rates none."""
    found = yield SubTask(
        name="rate",
        role="rate",
        instructions=config.rate,
        inputs={
            "topic": topic,
            "outline": outline,
        },
        schema=ChoiceSchema(options=tuple(map(str, range(config.min_rating, config.max_rating + 1)))),
        redundancy=config.num_raters,
        barred=contributors(made),
    )
    return sum(map(int, values(found))) / len(found)


def _mapped(topic: str, heading: str, config: MapReduceConfig) -> Pipeline:
    """Return the facts for one heading, each once; what only repeats the facts that workers are shown is none."""
    schema = ItemsSchema(
        max_items=config.max_facts, max_item_chars=config.max_fact_chars, must_match=FACT, form=FACT_FORM
    )
    found = yield SubTask(
        name="map",
        role="map",
        instructions=config.collect,
        inputs={"topic": topic, "section": heading},
        schema=schema,
        redundancy=config.facts_per_heading,
        examples=fitting(MAP, schema, num=config.num_examples),
    )
    facts = each_once([*SHOWN_FACTS, *(fact for own in values(found) for fact in own)])[len(SHOWN_FACTS) :]
    if not facts:
        raise SubTaskFailedError(f"Sub-task map needs a fact for {heading}, but got only those of its examples.")
    return facts


def _reduced(topic: str, heading: str, facts: list[str], config: MapReduceConfig) -> Pipeline:
    """Return the paragraph made of one heading's facts."""
    (found,) = yield SubTask(
        name="reduce",
        role="reduce",
        instructions=config.reduce,
        inputs={"topic": topic, "section": heading, "facts": facts},
        schema=TextSchema(max_chars=config.max_chars),
    )
    return found.value


def _for_each(branches: Mapping[Any, Pipeline]) -> Pipeline:
    """Return what the branches return under their keys, all ended before this does; those that failed are left out."""
    found = yield Together(list(branches.values()), keeps_failures=True)
    failures = [one for one in found if isinstance(one, SubTaskFailedError)]
    if len(failures) == len(found):
        raise SubTaskFailedError(f"All {len(found)} branches failed. {failures[0]}")
    return {key: one for key, one in zip(branches, found, strict=True) if not isinstance(one, SubTaskFailedError)}


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _is_content(word: str) -> bool:
    return any(one.isdigit() for one in word) or (len(word) >= _MIN_WORD_CHARS and word not in _SMALL_WORDS)
