"""Votes: orders of candidates, first-to-k, ties, who may not vote, voters who fail."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from crowd_runs import run_scripted, scripted

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.journal import Journal
from hierrouter_jax.crowd.runner import Crew, Runner
from hierrouter_jax.crowd.subtasks import Contribution, SubTaskFailedError
from hierrouter_jax.crowd.votes import LABELS, Candidate, VoteResult, vote
from hierrouter_jax.crowd.workers.worker import People

NAMES = ("ada", "bo", "cy", "dee", "eve")


def candidates(num, **makers):
    return [Candidate(text=f"text {place}", by=makers.get(f"by_{place}", ())) for place in range(num)]


def voting(found, *, num_votes=5, seed=0, **options):
    return vote(found, name="vote", role="vote", instructions="Which one?", num_votes=num_votes, seed=seed, **options)


def label_of(subtask, slot, text):
    (label,) = [label for label, shown in subtask.inputs_of(slot).items() if shown == text]
    return label


def for_texts(*texts):
    """Votes for these texts, in the order of asking."""
    wanted = iter(texts)
    return lambda ask: label_of(ask.subtask, ask.slot, next(wanted))


def driven(pipeline, ballot):
    """The result of a vote whose voters follow a ballot (None: no usable vote), and the sub-tasks it yielded."""
    waiting, asked, reply = iter(ballot), [], None
    while True:
        try:
            subtask = pipeline.send(reply)
        except StopIteration as stop:
            return stop.value, asked
        asked.append(subtask)
        reply = tuple(
            Contribution(
                contributor=f"voter {len(asked)}-{slot}",
                kin="voter",
                value=label_of(subtask, slot, f"text {wanted}"),
                slot=slot,
            )
            for slot, wanted in [(slot, next(waiting)) for slot in range(subtask.redundancy)]
            if wanted is not None
        )


# -- orders --


def test_a_vote_is_for_the_candidate_that_stood_under_the_label_in_the_voter_s_own_order(tmp_path):
    worker = scripted(for_texts("text 2", "text 2", "text 1", "text 0", "text 2"))
    outcome = run_scripted(voting(candidates(3)), worker, tmp_path)
    assert outcome.result == VoteResult(winner=2, counts=(1, 1, 3), voters=tuple(f"script#{k}" for k in range(5)))
    shown = [ask.subtask.inputs_of(ask.slot) for ask in worker.asked]
    assert all(list(one) == ["A", "B", "C"] and sorted(one.values()) == ["text 0", "text 1", "text 2"] for one in shown)
    assert len({tuple(one.values()) for one in shown}) > 1


def test_who_always_says_a_spreads_over_the_candidates():
    chosen = Counter()
    for seed in range(97):
        subtask = next(voting(candidates(3), num_votes=7, seed=seed))
        chosen.update(subtask.inputs_of(slot)["A"] for slot in range(7))
    assert sum(chosen.values()) == 97 * 7
    assert set(chosen) == {"text 0", "text 1", "text 2"}
    assert all(190 < count < 263 for count in chosen.values())  # 226 on average, three standard deviations of 12


def test_orders_depend_on_seed_round_and_candidates_alone():
    def orders(texts, *, seed=0):
        first = voting([Candidate(text=text) for text in texts], seed=seed, is_first_to=True, num_votes=13)
        subtask = next(first)
        return [tuple(subtask.inputs_of(slot).values()) for slot in range(7)]

    assert orders("xyz") == orders("xyz")
    assert orders("xyz") != orders("xyz", seed=1)
    assert orders("xyz") != [tuple({"u": "x"}.get(one, one) for one in order) for order in orders("uyz")]
    _, asked = driven(voting(candidates(2), num_votes=13, is_first_to=True), [0, 1, 0, 1, 0, 1, 0, *[None] * 6])
    later = {tuple(subtask.inputs_of(0).values()) for subtask in asked[1:]}
    assert later == {("text 0", "text 1"), ("text 1", "text 0")}


def test_an_empty_candidate_can_be_seen_and_chosen(tmp_path):
    found = [Candidate(text="something"), Candidate(text="")]
    worker = scripted(for_texts("(empty)", "(empty)", "something"))
    assert run_scripted(voting(found, num_votes=3), worker, tmp_path).result.winner == 1


def test_what_voters_see(tmp_path):
    worker = scripted(lambda ask: "A")
    run_scripted(voting(candidates(2), inputs={"goal": "a poem"}, num_votes=1), worker, tmp_path)
    (ask,) = worker.asked
    assert list(ask.subtask.inputs_of(0)) == ["goal", "A", "B"]
    assert (ask.subtask.role, ask.subtask.instructions) == ("vote", "Which one?")
    assert ask.subtask.schema.options == ("A", "B")


# -- numbers of votes --


@pytest.mark.parametrize("num_votes", [3, 5])
def test_first_to_k_is_the_full_vote_with_fewer_asked_for_every_sequence_of_votes(num_votes):
    needed = num_votes // 2 + 1
    numbers = set()
    for ballot in itertools.product(range(2), repeat=num_votes):
        full, _ = driven(voting(candidates(2), num_votes=num_votes), ballot)
        quick, asked = driven(voting(candidates(2), num_votes=num_votes, is_first_to=True), ballot)
        assert quick.winner == full.winner == Counter(ballot).most_common(1)[0][0]
        assert full.counts == (ballot.count(0), ballot.count(1))
        decided = next(num for num in range(needed, num_votes + 1) if max(Counter(ballot[:num]).values()) == needed)
        assert sum(subtask.redundancy for subtask in asked) == decided == sum(quick.counts)
        assert [subtask.redundancy for subtask in asked] == [needed] + [1] * (decided - needed)
        numbers.add(decided)
    assert numbers == set(range(needed, num_votes + 1))


@pytest.mark.parametrize("num_votes", [2, 3, 4, 5])
def test_first_to_k_among_three_and_for_even_numbers(num_votes):
    for ballot in itertools.product(range(3), repeat=num_votes):
        full, _ = driven(voting(candidates(3), num_votes=num_votes), ballot)
        quick, _ = driven(voting(candidates(3), num_votes=num_votes, is_first_to=True), ballot)
        most = max(map(ballot.count, range(3)))
        assert quick.winner == full.winner == min(place for place in range(3) if ballot.count(place) == most)


def test_a_tie_goes_to_the_first():
    for ballot in itertools.permutations([0, 0, 1, 1]):
        assert driven(voting(candidates(2), num_votes=4), ballot)[0].winner == 0
    for ballot in itertools.permutations([2, 2, 1, 1, 0]):
        assert driven(voting(candidates(3)), ballot)[0].winner == 1


def test_one_candidate_asks_nobody(tmp_path):
    worker = scripted(lambda ask: "A")
    outcome = run_scripted(voting(candidates(1, by_0=("ada#0",))), worker, tmp_path)
    assert outcome.result == VoteResult(winner=0, counts=(0,), voters=())
    assert worker.asked == []


def test_there_are_as_many_candidates_as_labels():
    assert next(voting(candidates(len(LABELS)))).schema.options == tuple(LABELS)
    with pytest.raises(ConfigError, match="at most 10 candidates, but there are 11"):
        next(voting(candidates(11)))
    with pytest.raises(ConfigError, match="two or more"):
        next(voting([]))


# -- who votes --


def test_nobody_votes_twice_or_on_their_own(tmp_path):
    found = candidates(2, by_0=("ada#0", "bo#1"), by_1=("cy#0",))
    worker = scripted(
        for_texts("text 0", "text 1", "text 0", "text 1", "text 1"), kins=("ada", "bo", "cy"), bars_kin=False
    )
    outcome = run_scripted(voting(found, is_first_to=True, barred=("bo#0",)), worker, tmp_path)
    assert outcome.result.voters == ("ada#1", "cy#1", "ada#2", "bo#2", "cy#2")
    assert outcome.result.winner == 1
    assert [ask.contributor.name for ask in worker.asked] == list(outcome.result.voters)
    assert worker.asked[-1].subtask.barred == ("ada#0", "bo#0", "bo#1", "cy#0")
    assert worker.asked[-1].subtask.asked_before == outcome.result.voters[:-1]


def test_where_makers_kin_is_barred_that_of_earlier_voters_is_not(tmp_path):
    worker = scripted(for_texts(*["text 0", "text 1"] * 2, "text 1"), kins=("ada", "bo", "cy"), bars_kin=True)
    outcome = run_scripted(voting(candidates(2, by_1=("ada#3",)), is_first_to=True), worker, tmp_path)
    assert outcome.result == VoteResult(winner=1, counts=(2, 3), voters=("bo#0", "cy#0", "bo#1", "cy#1", "bo#2"))


def test_five_people_are_needed_for_five_votes(tmp_path):
    crew = Crew(workers={"p": People()}, roles={"*": "p"})
    ballot = dict(zip(NAMES, [0, 1, 1, 0, 1], strict=True))
    taken = []

    def work(_):
        with Journal(tmp_path / "store.sqlite") as other:
            for name in ("maker", *NAMES):
                if (ticket := other.take_ticket(name)) is not None:
                    label = label_of(ticket.subtask, ticket.place.slot, f"text {ballot[name]}")
                    assert other.submit(ticket, name, text=label, value=label)
                    taken.append(name)
                    return
            raise AssertionError("nobody may vote")

    with Journal(tmp_path / "store.sqlite") as journal:
        runner = Runner(crew, journal, "run", sleep=work)
        outcome = runner.run(voting(candidates(2, by_0=("maker",)), is_first_to=True))
    assert taken == list(NAMES)
    assert (outcome.result.winner, outcome.result.counts) == (1, (2, 3))
    assert sorted(outcome.result.voters) == sorted(NAMES)


# -- voters who fail --


def test_votes_that_nobody_can_use_are_missing():
    full, asked = driven(voting(candidates(2)), [None, 1, None, 0, 1])
    assert (full.winner, full.counts, len(asked)) == (1, (1, 2), 1)
    quick, asked = driven(voting(candidates(2), is_first_to=True), [None, 1, 1, None, 1])
    assert (quick.winner, quick.counts) == (1, (0, 3))
    assert [subtask.redundancy for subtask in asked] == [3, 1, 1]
    quick, asked = driven(voting(candidates(2), is_first_to=True), [None, 1, 0, None, None])
    assert (quick.winner, quick.counts, len(asked)) == (0, (1, 1), 3)
    assert [subtask.min_contributions for subtask in asked] == [1, 0, 0]


def test_a_later_voter_who_fails_does_not_end_the_vote_but_one_without_any_fails(tmp_path):
    def respond(ask):
        if ask.subtask.asked_before:
            return "neither"
        return label_of(ask.subtask, ask.slot, "text 1" if ask.slot < 2 else "text 0")

    outcome = run_scripted(voting(candidates(2), is_first_to=True), scripted(respond), tmp_path)
    assert outcome.result == VoteResult(winner=1, counts=(1, 2), voters=("script#0", "script#1", "script#2"))
    worker = scripted(lambda ask: "neither")
    outcome = run_scripted(voting(candidates(2), is_first_to=True), worker, tmp_path, run="none")
    assert outcome.status == "failed"
    assert "Sub-task vote needs 1 usable answers, but got 0 of 3" in outcome.reason
    assert len(worker.asked) == 9

    def catching():
        try:
            yield from voting(candidates(2))
        except SubTaskFailedError:
            return "no vote"

    assert run_scripted(catching(), worker, tmp_path, run="caught").result == "no vote"


@pytest.mark.parametrize("is_first_to", [False, True])
def test_a_rerun_asks_nothing_and_orders_of_arrival_do_not_matter(tmp_path, is_first_to):
    def ballot(ask):
        return label_of(ask.subtask, ask.slot, "text 1" if len(ask.contributor.name) % 2 else "text 0")

    kins = ("ada", "b", "cyra")

    class Backwards:
        def __init__(self):
            self.inner = scripted(ballot, kins=kins)
            self.assign = self.inner.assign

        def answer(self, asks, on_reply):
            replies = []
            self.inner.answer(asks, lambda *reply: replies.append(reply))
            for reply in reversed(replies):
                on_reply(*reply)

    def pipeline():
        return voting(candidates(2), is_first_to=is_first_to)

    first = run_scripted(pipeline(), scripted(ballot, kins=kins), tmp_path, run="first")
    assert run_scripted(pipeline(), Backwards(), tmp_path, run="second").result == first.result
    silent = scripted(lambda ask: "neither", kins=kins)
    assert run_scripted(pipeline(), silent, tmp_path, run="first").result == first.result
    assert silent.asked == []
