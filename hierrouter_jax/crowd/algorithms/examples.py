"""Examples that workers are shown before a sub-task, as the interfaces of crowd work show some.

Small models need them (docs/crowd.md has the figures). All are written for this package; each answer is one that the
schema of its sub-task takes. Choices have none: examples of them changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.output_schemas import ItemsSchema, Refused, Schema
from hierrouter_jax.crowd.subtasks import Example, Input

MAX_EXAMPLES = 4  # by default, of a sub-task


def require_num_examples(num: int) -> None:
    """Raise `ConfigError` unless so many examples can be shown."""
    if num < 0:
        raise ConfigError(f"num_examples must be >= 0, but is {num}.")


def fitting(
    examples: Sequence[Example], schema: Schema | Callable[[Example], Schema], *, num: int
) -> tuple[Example, ...]:
    """Return the first `num` examples, without those that their schema, whose limits are options, would not take.

    Lists of items end at the schema's limit. Where a schema depends on what is asked, it is given as a function of the
    example.
    """
    found = []
    for one in examples[:num]:
        own = schema(one) if callable(schema) else schema
        answer = one.answer
        if isinstance(own, ItemsSchema):
            answer = "\n".join(answer.split("\n")[: own.max_items])
        if _takes(own, answer):
            found.append(replace(one, answer=answer))
    return tuple(found)


def answers_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """Return what examples answer, as `TextSchema.unlike` takes it."""
    return tuple(one.answer for one in examples)


def _takes(schema: Schema, answer: str) -> bool:
    """Say whether a schema takes all of an answer; of passages it leaves out what is beyond its limit."""
    try:
        value = schema.parse(answer)
    except Refused:
        return False
    return not isinstance(value, list) or len(value) == len(answer.split("\n"))


def _examples(*pairs: tuple[Mapping[str, Input], str]) -> tuple[Example, ...]:
    return tuple(Example(inputs=inputs, answer=answer) for inputs, answer in pairs)


# -- arithmetic --

ADD = _examples(
    ({"sum": "40 + 25"}, "65"),
    ({"sum": "138 + 57"}, "195"),
    ({"sum": "216 + 94"}, "310"),
    ({"sum": "63 + 88"}, "151"),
)
ADD_ALL = _examples(
    ({"sum": "40 + 25 + 13"}, "78"),
    ({"sum": "12 + 31 + 20 + 45"}, "108"),
    ({"sum": "57 + 18 + 24"}, "99"),
    ({"sum": "36 + 41 + 52 + 17 + 60"}, "206"),
)

# -- sorting, by the alphabet alone --

SORT_ALL = _examples(
    ({"items": ["tomato", "bread", "cheese"]}, "bread\ncheese\ntomato"),
    ({"items": ["salt", "onion", "pepper", "grape", "sugar"]}, "grape\nonion\npepper\nsalt\nsugar"),
)

# -- find-fix-verify --

FIND_WRONG = _examples(
    ({"paragraph": "The dogs in the park was barking all night, and nobody could sleep."}, "was barking"),
    ({"paragraph": "I would of called you, but my phone was definately broken."}, "would of\ndefinately"),
    ({"paragraph": "Yesterday my sister buyed a new coat in the town."}, "buyed"),
    ({"paragraph": "The teacher said that there work were very good, and gave them a break."}, "there work were"),
)
FIX_WRONG = _examples(
    (
        {"text before": "The dogs in the park", "text after": "all night, and nobody could sleep."}
        | {"passage": "was barking"},
        "were barking",
    ),
    (
        {"text before": "I would have called you, but my phone was", "text after": "broken.", "passage": "definately"},
        "definitely",
    ),
    ({"text before": "Yesterday my sister", "text after": "a new coat in the town.", "passage": "buyed"}, "bought"),
    (
        {"text before": "The teacher said that", "text after": "very good, and gave them a break."}
        | {"passage": "there work were"},
        "their work was",
    ),
)
PROOFREAD_ALL = _examples(
    (
        {"text": "The dogs in the park was barking all night, and nobody could sleep."},
        "The dogs in the park were barking all night, and nobody could sleep.",
    ),
    (
        {"text": "I would of called you, but my phone was definately broken."},
        "I would have called you, but my phone was definitely broken.",
    ),
    (
        {"text": "Yesterday my sister buyed a new coat in the town."},
        "Yesterday my sister bought a new coat in the town.",
    ),
    (
        {"text": "The teacher said that there work were very good, and gave them a break."},
        "The teacher said that their work was very good, and gave them a break.",
    ),
)
FIND_LONG = _examples(
    (
        {"paragraph": "Due to the fact that it rained, the match was put off until a later point in time."},
        "Due to the fact that\nuntil a later point in time",
    ),
    (
        {"paragraph": "She has the ability to swim, and she does so on a daily basis."},
        "has the ability to\non a daily basis",
    ),
    (
        {"paragraph": "The shop, which is located next to the station, sells bread."},
        "which is located next to the station",
    ),
)
FIX_LONG = _examples(
    ({"text after": "it rained, the match was put off.", "passage": "Due to the fact that"}, "Because"),
    ({"text before": "She", "text after": "swim, and she does so daily.", "passage": "has the ability to"}, "can"),
    (
        {"text before": "The shop,", "text after": ", sells bread.", "passage": "which is located next to the station"},
        "by the station",
    ),
)
SHORTEN_ALL = _examples(
    (
        {"text": "Due to the fact that it rained, the match was put off until a later point in time."}
        | {"length wanted": "at most 60 characters"},
        "Because it rained, the match was put off.",
    ),
    (
        {"text": "She has the ability to swim, and she does so on a daily basis."}
        | {"length wanted": "at most 50 characters"},
        "She can swim, and does so daily.",
    ),
)

# -- transcription --

TRANSCRIBE = _examples(
    ({"text after": "mus1c un7il", "piece": "Tbe ne!ghbours p1ayed"}, "The neighbours played"),
    ({"text before": "p1ayed mus1c un7il", "piece": "la7e in tbe n1ght"}, "late in the night"),
    (
        {"text before": "0ur tra1n", "text after": "n1ne o'cl0ck", "piece": "1eft tbe stat!on at"},
        "left the station at",
    ),
    ({"text before": "stat!on at", "piece": "n1ne o'cl0ck 1n tbe morn!ng."}, "nine o'clock in the morning."),
)
TRANSCRIBE_ALL = _examples(
    (
        {"text": "Tbe ne!ghbours p1ayed mus1c un7il la7e in tbe n1ght"},
        "The neighbours played music until late in the night",
    ),
    (
        {"text": "0ur tra1n 1eft tbe stat!on at n1ne o'cl0ck 1n tbe morn!ng."},
        "Our train left the station at nine o'clock in the morning.",
    ),
)

# -- map-reduce --

PARTITION = _examples(
    (
        {"topic": "Keeping hens in a garden"},
        "What hens need\nBuilding a coop\nFood and water\nCollecting eggs\nKeeping hens healthy",
    ),
    (
        {"topic": "The history of the bicycle"},
        "The first machines without pedals\nThe high wheel\nThe safety bicycle\nBicycles in daily life today",
    ),
)
MAP = _examples(
    (
        {"topic": "Keeping hens in a garden", "section": "Food and water"},
        "A hen drinks about a quarter of a litre of water a day (source: Handbook of Small Farms)\n"
        "Hens eat grain, greens and insects (source: The Garden Hen)",
    ),
    (
        {"topic": "The history of the bicycle", "section": "The high wheel"},
        "Riders of high wheels sat above a very large front wheel (source: Museum of Transport)\n"
        "Falls over the front were common (source: A Century of Cycling)",
    ),
)

# -- price-divide-solve --

DIVIDE = _examples(
    (
        {"task": "Plan a birthday party for ten children in a garden."},
        "Write the guest list and the text of the invitation for ten children.\n"
        "Choose five games that ten children can play in a garden.\n"
        "Write a menu and a shopping list for a birthday party of ten children.",
    ),
    (
        {"task": "Write a one-page guide for visitors to a small museum of clocks."},
        "Describe in three sentences what a small museum of clocks shows.\n"
        "Name three clocks that a visitor should see, with a sentence on each.\n"
        "Write what visitors should know of tickets, hours and the way there.",
    ),
)

# -- humor: headlines through its steps --


def _steps_of(
    headline: str,
    *,
    aspects: Sequence[str],
    reactions: Sequence[str],
    associations: Sequence[str],
    belief: tuple[str, str],
    violation: tuple[str, str],
    joke: str,
) -> dict[str, Example]:
    """Return an example of each step, which shows what the steps before it found; belief and violation with kinds."""
    found = {
        "aspects": (list(aspects), "\n".join(aspects)),
        "reactions": (list(reactions), "\n".join(reactions)),
        "associations": (list(associations), "\n".join(associations)),
        "belief": ([": ".join(belief)], "kind: {}\nbelief: {}".format(*belief)),
        "violation": ([": ".join(violation)], "kind: {}\nviolation: {}".format(*violation)),
        "write": ([], joke),
    }
    shown: dict[str, Input] = {"headline": headline}
    examples = {}
    for step, (items, answer) in found.items():
        examples[step] = Example(inputs=dict(shown), answer=answer)
        shown[step] = items
    return examples


_JOKES = [
    _steps_of(
        "City buys two thousand umbrellas in the driest summer on record",
        aspects=[
            *("thing: umbrellas", "thing: the driest summer", "person: the city's officials"),
            *("action: buying too many", "belief: officials waste money"),
        ],
        reactions=[
            "anger, because the money is wasted",
            "laughter, because nobody needs an umbrella in the sun",
        ],
        associations=[
            *("object: a sunshade", "event: a flood", "person: a salesman with a quota", "opposite: sun cream")
        ],
        belief=("skill", "the officials cannot read a weather report"),
        violation=("sarcasm", "the officials are praised for how well they prepare"),
        joke="Next on the city's list, while prices are low: two thousand snow shovels for August.",
    ),
    _steps_of(
        "Museum of silence hires a brass band",
        aspects=["thing: a museum of silence", "thing: a brass band", "person: the visitors", "action: hiring noise"],
        reactions=["surprise, because a band is never quiet", "delight, because silence is dull after an hour"],
        associations=["place: a library", "person: a trumpeter on tiptoe", "saying: silence is golden"],
        belief=("value", "the museum wants a crowd more than it wants quiet"),
        violation=("angle", "the band keeps the rules of the house"),
        joke="The band has played for a week now, and visitors call it the best silence they have ever heard.",
    ),
]
HUMOR: Mapping[str, tuple[Example, ...]] = {step: tuple(one[step] for one in _JOKES) for step in _JOKES[0]}
ONE_JOKE = tuple(Example(inputs=one["aspects"].inputs, answer=one["write"].answer) for one in _JOKES)
