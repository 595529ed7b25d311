"""Keys: a field that matters changes the key, a field that does not leaves it; the form is pinned."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest

from hierrouter_jax.core.text import GREEDY, EncodedRequest, Sampling
from hierrouter_jax.store.request_keys import request_key, score_key

SAMPLED = Sampling(temperature=0.7, top_k=11, top_p=0.9, seed=5)
REQUEST = EncodedRequest(
    weights_digest="w" * 64,
    token_ids=(3, 5, 7),
    max_new_tokens=13,
    stop=("\n",),
    options=(" A", " B"),
    sampling=SAMPLED,
)


@dataclasses.dataclass(frozen=True)
class Row:
    id: str = "row/1"
    question: str = "How many?"
    tests: tuple[str, ...] = ("assert True",)


def test_key_is_the_sha256_of_canonical_json():
    text = (
        '{"format":1,"request":{"max_new_tokens":13,"options":[" A"," B"],"sampling":{"seed":5,"temperature":0.7,'
        '"top_k":11,"top_p":0.9},"stop":["\\n"],"token_ids":[3,5,7],"weights_digest":"' + "w" * 64 + '"}}'
    )
    assert json.loads(text)["request"]["token_ids"] == [3, 5, 7]
    assert request_key(REQUEST) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"weights_digest": "v" * 64},
        {"token_ids": (3, 5, 8)},
        {"token_ids": (3, 57)},
        {"max_new_tokens": 14},
        {"stop": ()},
        {"stop": ("\n", "\n\n")},
        {"options": (" B", " A")},
        {"sampling": dataclasses.replace(SAMPLED, seed=6)},
        {"sampling": dataclasses.replace(SAMPLED, temperature=0.8)},
        {"sampling": dataclasses.replace(SAMPLED, top_k=None)},
        {"sampling": GREEDY},
    ],
)
def test_whatever_changes_the_response_changes_the_key(change):
    assert request_key(dataclasses.replace(REQUEST, **change)) != request_key(REQUEST)


def test_greedy_requests_share_a_key_whatever_their_unused_fields():
    greedy = dataclasses.replace(REQUEST, sampling=GREEDY)
    unused = dataclasses.replace(REQUEST, sampling=Sampling(temperature=0.0, top_k=3, seed=99))
    assert request_key(greedy) == request_key(unused)


def test_score_key_counts_row_text_and_scorer():
    key = score_key(Row(), "42", scorer_version="1")
    others = [
        score_key(Row(question="How much?"), "42", scorer_version="1"),
        score_key(Row(tests=()), "42", scorer_version="1"),
        score_key(Row(), "43", scorer_version="1"),
        score_key(Row(), "42", scorer_version="2"),
        score_key(Row(), "42\ud800", scorer_version="1"),
    ]
    assert len({key, *others}) == 6
    assert score_key(Row(), "42", scorer_version="1") == key
