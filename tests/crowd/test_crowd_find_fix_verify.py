"""Find-Fix-Verify: agreement on passages, rewrites, checks, the choice for a length, all with scripted workers."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from crowd_runs import asked_names, run_crew, run_scripted, scripted

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.algorithms.find_fix_verify import (
    ROLES,
    FindFixVerifyConfig,
    find_fix_verify,
    one_prompt,
)
from hierrouter_jax.crowd.runner import Crew

TYPOS = {"teh": "the", "recieve": "receive", "wich": "which"}
TEXT = "We saw teh sea.\n\nYou will recieve a letter wich says all.\n\nGood."
CORRECT = "We saw the sea.\n\nYou will receive a letter which says all.\n\nGood."


def perfect(ask):
    """Marks every mistake, corrects it, and knows the right answer."""
    shown = ask.subtask.inputs_of(ask.slot)
    match ask.subtask.name:
        case "find":
            return "\n".join(word for word in TYPOS if word in shown["paragraph"])
        case "fix":
            return TYPOS[shown["passage"]]
        case "verify":
            return "yes" if shown["new version"] == TYPOS[shown["original passage"]] else "no"
    raise AssertionError(ask.subtask.name)


def small(**fields):
    return FindFixVerifyConfig(**{"num_finders": 3, "num_fixers": 2, "num_verifiers": 3, "min_spans": 0, **fields})


def asks_of(worker, name):
    return [ask for ask in worker.asked if ask.subtask.name == name]


def names_of(asks):
    return [ask.contributor.name for ask in asks]


def applied(text, result):
    """The text with every patch's choice in place of what it replaces, from the back."""
    for patch in reversed(result["patches"]):
        assert text[patch["start"] : patch["end"]] == patch["original"]
        text = text[: patch["start"]] + patch["chosen"] + text[patch["end"] :]
    return text


# -- proofreading --


def test_perfect_workers_make_a_text_perfect_and_a_rerun_asks_nothing(tmp_path):
    worker = scripted(perfect)
    outcome = run_scripted(find_fix_verify(TEXT, small()), worker, tmp_path)
    assert outcome.result["text"] == CORRECT
    assert outcome.result["problems"] == []
    assert [(one["original"], one["chosen"]) for one in outcome.result["patches"]] == list(TYPOS.items())
    assert applied(TEXT, outcome.result) == CORRECT
    assert {ask.subtask.role for ask in worker.asked} == set(ROLES)
    again = scripted(lambda ask: "garbage")
    assert run_scripted(find_fix_verify(TEXT, small()), again, tmp_path).result == outcome.result
    assert again.asked == []


def test_who_is_asked_what_in_which_order(tmp_path):
    worker = scripted(perfect, kins=("ann", "bo"))
    config = FindFixVerifyConfig()
    run_scripted(find_fix_verify("We saw teh sea.", config), worker, tmp_path)
    # the two fixers agree, so their one rewrite is checked beside the original and the cut version
    assert asked_names(worker) == ["find"] * 10 + ["fix"] * 5 + ["verify"] * 15
    assert names_of(worker.asked[:10]) == [f"{kin}#{sample}" for sample in range(5) for kin in ("ann", "bo")]
    assert names_of(asks_of(worker, "fix")) == ["ann#0", "bo#0", "ann#1", "bo#1", "ann#2"]
    others = ["bo#2", "ann#3", "bo#3", "ann#4", "bo#4"]  # in the order of the kins, nobody who fixed
    assert sorted(names_of(asks_of(worker, "verify"))) == sorted(others * 3)
    assert worker.asked[0].subtask.inputs_of(0) == {"paragraph": "We saw teh sea."}
    assert worker.asked[10].subtask.inputs_of(0) == {
        "text before": "We saw",
        "text after": "sea.",
        "passage": "teh",
    }
    shown = worker.asked[15].subtask.inputs_of(0)
    assert shown | {"other versions": []} == {
        "text before": "We saw",
        "text after": "sea.",
        "original passage": "teh",
        "other versions": [],
        "new version": "the",
    }
    checked = [ask.subtask.inputs_of(ask.slot)["new version"] for ask in asks_of(worker, "verify")]
    assert checked == ["the"] * 5 + ["teh"] * 5 + ["(the passage is left out)"] * 5


def test_every_verifier_sees_the_other_versions_in_an_order_of_their_own(tmp_path):
    rewrites = ["one", "two", "three", "four", "five"]

    def respond(ask):
        return rewrites[ask.slot] if ask.subtask.name == "fix" else perfect(ask)

    worker = scripted(respond)
    config = FindFixVerifyConfig(num_verifiers=7)
    run_scripted(find_fix_verify("We saw teh sea.", config), worker, tmp_path)
    asks = asks_of(worker, "verify")
    assert len(asks) == 5 * 7  # five rewrites need no challengers
    orders = []
    for ask in asks:
        shown = ask.subtask.inputs_of(ask.slot)
        assert sorted([*shown["other versions"], shown["new version"]]) == sorted(rewrites)
        orders.append(tuple(shown["other versions"]))
    assert len(set(orders[:7])) > 1
    again = scripted(respond)
    run_scripted(find_fix_verify("We saw teh sea.", config), again, tmp_path, run="again")
    assert [ask.subtask for ask in again.asked] == [ask.subtask for ask in worker.asked]


@pytest.mark.parametrize(("num_honest", "is_corrected"), [(0, False), (1, False), (2, True), (3, True), (5, True)])
def test_with_few_honest_verifiers_a_correction_is_kept_as_the_threshold_says(tmp_path, num_honest, is_corrected):
    def respond(ask):
        honest = perfect(ask)
        if ask.subtask.name != "verify" or ask.slot < num_honest:
            return honest
        return "no"  # of everything

    outcome = run_scripted(find_fix_verify(TEXT, small(num_verifiers=5)), scripted(respond), tmp_path)
    assert (outcome.result["text"] == CORRECT) is is_corrected
    assert (outcome.result["text"] == TEXT) is not is_corrected


@pytest.mark.parametrize(
    ("yes_by_version", "expected"),
    [
        ({"one": 3, "two": 7, "three": 5}, "two"),
        ({"one": 7, "two": 7, "three": 3}, "one"),
        ({"one": 2, "two": 3, "three": 3}, "two"),
        ({"one": 2, "two": 2, "three": 1}, "teh"),  # 0.2 of 10 is under 0.3
    ],
)
def test_the_best_share_wins_and_of_equals_the_earlier(tmp_path, yes_by_version, expected):
    def respond(ask):
        if ask.subtask.name == "fix":
            return list(yes_by_version)[ask.slot]
        if ask.subtask.name == "verify":
            return "yes" if ask.slot < yes_by_version[ask.subtask.inputs_of(ask.slot)["new version"]] else "no"
        return perfect(ask)

    config = small(num_fixers=3, num_verifiers=10)
    result = run_scripted(find_fix_verify("We saw teh sea.", config), scripted(respond), tmp_path).result
    assert result["text"] == f"We saw {expected} sea."
    (patch,) = result["patches"]
    assert patch["kept"] == [
        {"text": text, "shares": {"verify": num / 10}} for text, num in yes_by_version.items() if num >= 3
    ]


def test_equal_rewrites_are_one_and_all_their_makers_are_barred(tmp_path):
    def respond(ask):
        if ask.subtask.name == "fix":
            return ["this  one", "the", " this one ", "the", "tha\nin other words"][ask.slot]
        return perfect(ask)

    worker = scripted(respond, kins=("ann", "bo", "cy"))
    run_scripted(find_fix_verify("We saw teh sea.", small(num_fixers=5)), worker, tmp_path)
    checked = [ask.subtask.inputs_of(ask.slot)["new version"] for ask in asks_of(worker, "verify")]
    assert checked == ["this  one"] * 3 + ["the"] * 3 + ["tha"] * 3
    assert not set(names_of(asks_of(worker, "fix"))) & set(names_of(asks_of(worker, "verify")))


def test_marks_of_two_of_ten_make_a_patch_of_all_that_they_cover(tmp_path):
    marks = ["two three", "three four", "One", "five", "six", "", "", "", "", ""]

    def respond(ask):
        if ask.subtask.name == "find":
            return marks[ask.slot]
        return "2" if ask.subtask.name == "fix" else "yes"

    worker = scripted(respond)
    config = FindFixVerifyConfig(min_spans=0)
    result = run_scripted(find_fix_verify("One two three four five six.", config), worker, tmp_path).result
    assert result["text"] == "One 2 five six."
    assert [(one["start"], one["end"]) for one in result["patches"]] == [(4, 18)]
    assert len(asks_of(worker, "find")) == 10


def test_without_agreement_two_more_are_asked_who_had_not_answered(tmp_path):
    words = ["One", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    paragraph = " ".join(words)

    def respond(ask):
        if ask.subtask.name == "find":
            return "four" if ask.subtask.redundancy == 2 else words[ask.slot]
        return "4" if ask.subtask.name == "fix" else "yes"

    worker = scripted(respond)
    result = run_scripted(find_fix_verify(paragraph, FindFixVerifyConfig()), worker, tmp_path).result
    assert result["text"] == paragraph.replace("four", "4")  # marked by 3 of 12, and ceil(0.2 * 12) is 3
    assert names_of(asks_of(worker, "find")) == [f"script#{sample}" for sample in range(12)]
    worker = scripted(respond)
    config = FindFixVerifyConfig(min_agreement=0.26)  # four of twelve
    result = run_scripted(find_fix_verify(paragraph, config), worker, tmp_path, run="more").result
    assert (result["text"], result["patches"]) == (paragraph, [])
    assert asked_names(worker) == ["find"] * 12
    worker = scripted(respond)
    config = FindFixVerifyConfig(num_extra_finders=0)
    result = run_scripted(find_fix_verify(paragraph, config), worker, tmp_path, run="none").result
    assert (result["text"], asked_names(worker)) == (paragraph, ["find"] * 10)
    worker = scripted(lambda ask: "not in it" if ask.subtask.redundancy == 2 else words[ask.slot])
    result = run_scripted(find_fix_verify(paragraph, FindFixVerifyConfig()), worker, tmp_path, run="useless").result
    assert result == {"text": paragraph, "patches": [], "problems": []}  # the first ten have looked


def test_finders_without_a_usable_answer_are_not_counted(tmp_path):
    def respond(ask):
        if ask.subtask.name == "find":
            return {0: "teh", 1: "sea"}.get(ask.slot, "not in the text")
        return "new" if ask.subtask.name == "fix" else "no"

    config = FindFixVerifyConfig(min_agreement=0.5)  # one of the two who count
    worker = scripted(respond)
    result = run_scripted(find_fix_verify("We saw teh sea.", config), worker, tmp_path).result
    assert [one["original"] for one in result["patches"]] == ["teh", "sea"]
    assert len(asks_of(worker, "find")) == 2 + 8 * 3


# -- what fails --


def test_a_paragraph_whose_finders_all_fail_stays_and_the_others_are_edited(tmp_path):
    def respond(ask):
        if ask.subtask.inputs.get("paragraph", "").startswith("We"):
            return "not in the text"
        return perfect(ask)

    result = run_scripted(find_fix_verify(TEXT, small()), scripted(respond), tmp_path).result
    assert result["text"] == CORRECT.replace("the sea", "teh sea")
    (problem,) = result["problems"]
    assert "paragraph at character 0 stays" in problem
    assert "needs 1 usable answers, but got 0 of 2" in problem
    outcome = run_scripted(find_fix_verify(TEXT, small()), scripted(lambda ask: "not there"), tmp_path, run="all")
    assert outcome.status == "failed"
    assert "is not in the text" in outcome.reason
    config = small(num_extra_finders=0)
    outcome = run_scripted(find_fix_verify(TEXT, config), scripted(lambda ask: "not there"), tmp_path, run="no more")
    assert (outcome.status, "got 0 of 3" in outcome.reason) == ("failed", True)


def test_a_patch_without_usable_rewrites_stays(tmp_path):
    def respond(ask):
        shown = ask.subtask.inputs_of(ask.slot)
        return "wich" if shown.get("passage") == "wich" else perfect(ask)  # unchanged, so refused

    worker = scripted(respond)
    result = run_scripted(find_fix_verify(TEXT, small()), worker, tmp_path).result
    assert result["text"] == CORRECT.replace("which", "wich")
    assert [one["kept"] for one in result["patches"]][-1] == []
    (problem,) = result["problems"]
    assert problem.startswith("Characters 43 to 47 stay: ")
    assert "must differ from the text that was given" in problem
    assert all(ask.subtask.inputs["original passage"] != "wich" for ask in asks_of(worker, "verify"))


def test_what_nobody_may_verify_stays(tmp_path):
    makers = scripted(perfect)
    judges = scripted(perfect, bars_kin=True)
    crew = Crew(workers={"makers": makers, "judges": judges}, roles={"verify": "judges", "*": "makers"})
    result = run_crew(find_fix_verify("We saw teh sea.", small()), crew, tmp_path).result
    assert result["text"] == "We saw teh sea."
    (problem,) = result["problems"]  # said once, not for every version
    assert "had no part in what it judges" in problem


# -- shortening --

LONG = (
    "It was due to the fact that it rained that we stayed at home, and in the end we more or less slept.\n\n"
    "At this point in time nobody knows."
)
SHORTER = {
    "due to the fact that": ["because", "as"],
    "in the end we more or less slept": ["we slept", "in the end we slept"],
    "At this point in time": ["Now", "At this time"],
}
# version: verifiers of five who flag (grammar, meaning)
FLAGS = {
    "because": (0, 0),
    "as": (0, 1),
    "we slept": (1, 2),
    "in the end we slept": (0, 1),
    "Now": (0, 0),
    "At this time": (3, 0),
}


def shortening(ask):
    shown = ask.subtask.inputs_of(ask.slot)
    match ask.subtask.name:
        case "find":
            return "\n".join(passage for passage in SHORTER if passage in shown["paragraph"])
        case "fix":
            return SHORTER[shown["passage"]][ask.slot % 2]
        case "verify-grammar" | "verify-meaning":
            num_flags = FLAGS[shown["new version"]][ask.subtask.name == "verify-meaning"]
            return "yes" if ask.slot < num_flags else "no"
    raise AssertionError(ask.subtask.name)


def shorten(target_share, **fields):
    return FindFixVerifyConfig(mode="shorten", target_share=target_share, **fields)


@pytest.mark.parametrize(
    ("target_share", "expected"),
    [
        (1.0, {}),
        (0.95, {"due to the fact that": "because"}),  # 7 are to go, and 13 are fewer than 18
        (0.9, {"At this point in time": "Now"}),  # 14 are to go
        (0.8, {"due to the fact that": "because", "At this point in time": "Now"}),
        (
            0.7,
            {
                "due to the fact that": "because",
                "in the end we more or less slept": "in the end we slept",
                "At this point in time": "Now",
            },
        ),
        (
            0.1,
            {
                "due to the fact that": "as",
                "in the end we more or less slept": "we slept",
                "At this point in time": "Now",
            },
        ),
    ],
)
def test_rewrites_are_picked_for_the_length_that_is_wanted(tmp_path, target_share, expected):
    outcome = run_scripted(find_fix_verify(LONG, shorten(target_share)), scripted(shortening), tmp_path)
    result = outcome.result
    text = LONG
    for passage, rewrite in expected.items():
        text = text.replace(passage, rewrite)
    assert result["text"] == text == applied(LONG, result)
    assert target_share == 0.1 or len(text) <= target_share * len(LONG)
    assert [[one["text"] for one in patch["kept"]] for patch in result["patches"]] == [
        ["because", "as"],
        ["we slept", "in the end we slept"],
        ["Now"],  # three of five found the grammar of the other wrong
    ]
    assert result["patches"][1]["kept"][0]["shares"] == {"verify-grammar": 0.2, "verify-meaning": 0.4}


def test_a_share_that_is_the_threshold_is_enough(tmp_path):
    assert Fraction(1, 10) < 0.1  # in binary

    def respond(ask):
        return perfect(ask) if ask.subtask.name != "verify" or ask.slot == 6 else "no"

    config = small(num_verifiers=10, min_positive=0.1)
    assert run_scripted(find_fix_verify(TEXT, config), scripted(respond), tmp_path).result["text"] == CORRECT


@pytest.mark.parametrize("question", ["verify-grammar", "verify-meaning"])
def test_a_rewrite_is_not_kept_where_a_question_goes_unanswered(tmp_path, question):
    def respond(ask):
        is_lost = ask.subtask.name == question and ask.subtask.inputs_of(ask.slot)["new version"] == "because"
        return "perhaps" if is_lost else shortening(ask)

    result = run_scripted(find_fix_verify(LONG, shorten(0.5)), scripted(respond), tmp_path).result
    assert [one["text"] for one in result["patches"][0]["kept"]] == ["as"]
    (problem,) = result["problems"]
    assert f"Sub-task {question} needs 1 usable answers, but got 0 of 5" in problem


@pytest.mark.parametrize(("num_flags", "is_kept"), [(1, True), (2, False), (3, False)])
@pytest.mark.parametrize("question", ["verify-grammar", "verify-meaning"])
def test_half_of_the_flags_is_too_many(tmp_path, question, num_flags, is_kept):
    def respond(ask):
        if ask.subtask.name.startswith("verify"):
            return "yes" if ask.subtask.name == question and ask.slot < num_flags else "no"
        return shortening(ask)

    config = shorten(0.5, num_verifiers=4)
    result = run_scripted(find_fix_verify(LONG, config), scripted(respond), tmp_path).result
    assert [bool(patch["kept"]) for patch in result["patches"]] == [is_kept] * 3
    assert (result["text"] == LONG) is not is_kept


def test_what_does_not_get_shorter_is_refused(tmp_path):
    passage = "due to the fact that"

    def respond(ask):
        is_first = ask.subtask.inputs.get("passage") == passage and not ask.refusals
        return "owing to the fact that" if is_first else shortening(ask)

    worker = scripted(respond)
    result = run_scripted(find_fix_verify(LONG, shorten(0.8)), worker, tmp_path).result
    asks = [ask for ask in asks_of(worker, "fix") if ask.subtask.inputs["passage"] == passage]
    assert len(asks) == 10
    assert all("must be shorter than the text that was given (20 characters)" in ask.refusals[0] for ask in asks[5:])
    assert result["patches"][0]["chosen"] == "because"


@pytest.mark.parametrize(
    ("paragraph", "passage", "expected"),
    [
        ("We are very happy now.", "very", "We are happy now."),
        ("Well, we are happy.", "Well,", "we are happy."),
        ("We are happy, too.", "too", "We are happy,."),
        ("We are happy indeed.", "indeed", "We are happy."),
        ("We are happy indeed", "happy indeed", "We are"),
        ("We are unhappy", "un", "We are happy"),
        ("We (indeed) are.", "indeed", "We () are."),
        ("First line\nof two", "line of", "First two"),
    ],
)
def test_the_cut_version_goes_with_one_space(tmp_path, paragraph, passage, expected):
    def respond(ask):
        if ask.subtask.name == "find":
            return passage
        if ask.subtask.name == "fix":
            return "q"
        return "no" if ask.subtask.inputs_of(ask.slot)["new version"].startswith("(") else "yes"

    config = shorten(0.1, num_finders=2)
    result = run_scripted(find_fix_verify(paragraph, config), scripted(respond), tmp_path).result
    assert result["text"] == expected == applied(paragraph, result)
    (patch,) = result["patches"]
    assert [one["text"] for one in patch["kept"]] == [""]


def test_two_passages_side_by_side_may_both_be_cut(tmp_path):
    def respond(ask):
        if ask.subtask.name == "find":
            return "really\nquite"
        if ask.subtask.name == "fix":
            return "q"
        return "no" if ask.subtask.inputs_of(ask.slot)["new version"].startswith("(") else "yes"

    for number, (text, expected) in enumerate(
        {"We are really quite happy.": "We are happy.", "It is so, really quite": "It is so, "}.items()
    ):
        config = shorten(0.1, num_finders=2)
        result = run_scripted(find_fix_verify(text, config), scripted(respond), tmp_path, run=f"run-{number}").result
        assert result["text"] == expected == applied(text, result)
        assert len(result["patches"]) == 2


def test_a_paragraph_is_never_cut_whole(tmp_path):
    worker = scripted({"find": "Good.", "fix": "Ok.", "verify": "no"})
    result = run_scripted(find_fix_verify("Good.", small()), worker, tmp_path).result
    assert result["text"] == "Good."
    checked = {ask.subtask.inputs_of(ask.slot)["new version"] for ask in asks_of(worker, "verify")}
    assert checked == {"Ok.", "Good."}


# -- texts --


def test_large_passages_are_refused_in_large_paragraphs_alone(tmp_path):
    short, large = "a b " * 24 + "end", "c d " * 25 + "end"
    assert (len(short), len(large)) == (99, 103)
    worker = scripted({"find": lambda ask: ask.subtask.inputs["paragraph"][:-3], "fix": "new", "verify": "yes"})
    result = run_scripted(find_fix_verify(f"{short}\n\n{large}", small()), worker, tmp_path).result
    assert [one["original"] for one in result["patches"]] == [short[:-4]]
    assert "must be less than 70% of the text" in result["problems"][0]


def test_places_count_in_the_whole_text_with_plain_line_ends(tmp_path):
    text = "  <b>We</b> saw\r\nteh sea. \U0001f30a \r\n \t\r\n\r\n- You recieve\r\n- a card\r\n"
    plain = text.replace("\r\n", "\n")
    worker = scripted(perfect)
    result = run_scripted(find_fix_verify(text, small()), worker, tmp_path).result
    assert result["text"] == plain.replace("teh", "the").replace("recieve", "receive") == applied(plain, result)
    assert asks_of(worker, "find")[0].subtask.inputs == {"paragraph": "<b>We</b> saw teh sea. \U0001f30a"}
    assert asks_of(worker, "find")[3].subtask.inputs == {"paragraph": "- You recieve - a card"}


def test_a_passage_over_two_lines_is_replaced_and_its_line_end_stays_where_nothing_is(tmp_path):
    def respond(ask):
        match ask.subtask.name:
            case "find":
                return "saw teh"
            case "fix":
                return "saw the"
        return verdict

    for verdict, expected in (("yes", "We saw the\nsea."), ("no", "We saw\nteh\nsea.")):
        result = run_scripted(
            find_fix_verify("We saw\nteh\nsea.", small()), scripted(respond), tmp_path, run=verdict
        ).result
        assert result["text"] == expected
        assert result["patches"][0]["original"] == "saw\nteh"


@pytest.mark.parametrize("text", ["", " \n\n ", "a\x00b", "\ud800"])
def test_texts_that_cannot_be_edited_are_refused(text):
    for make in (find_fix_verify, one_prompt):
        with pytest.raises(DataError, match="The text must"):
            next(make(text, FindFixVerifyConfig()))


def test_order_of_arrival_does_not_matter(tmp_path):
    class Shuffled:
        def __init__(self, seed):
            self.random, self.inner = random.Random(seed), scripted(shortening)

        def assign(self, subtask, step):
            return self.inner.assign(subtask, step)

        def answer(self, asks, on_reply):
            replies = []
            self.inner.answer(asks, lambda index, reply: replies.append((index, reply)))
            for index, reply in self.random.sample(replies, len(replies)):
                on_reply(index, reply)

    results = [
        run_scripted(find_fix_verify(LONG, shorten(0.8)), Shuffled(seed), tmp_path, run=f"run-{seed}").result
        for seed in range(3)
    ]
    assert results[0] == results[1] == results[2]
    assert results[0]["text"] != LONG


def test_the_baselines_are_one_prompt(tmp_path):
    worker = scripted({"one-prompt": CORRECT})
    assert run_scripted(one_prompt(TEXT, FindFixVerifyConfig()), worker, tmp_path).result == {"text": CORRECT}
    assert [(ask.subtask.role, ask.subtask.inputs) for ask in worker.asked] == [("one_prompt", {"text": TEXT})]
    worker = scripted({"one-prompt": lambda ask: "It rained.\n\nNobody knows." if ask.refusals else LONG})
    result = run_scripted(one_prompt(LONG, shorten(0.5)), worker, tmp_path, run="short").result
    assert result == {"text": "It rained.\n\nNobody knows."}
    assert worker.asked[0].subtask.inputs["length wanted"] == f"at most {len(LONG) // 2} characters"
    assert len(worker.asked) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_finders": 0}, "num_finders must be >= 1, but is 0"),
        ({"num_fixers": 0}, "num_fixers must be >= 1"),
        ({"num_verifiers": -1}, "num_verifiers must be >= 1"),
        ({"num_extra_finders": -1}, "num_extra_finders must be >= 0"),
        ({"min_spans": -1}, "min_spans must be >= 0"),
        ({"min_spans": 3, "max_spans": 2}, "max_spans must be >= 3"),
        ({"max_growth_chars": -1}, "max_growth_chars must be >= 0"),
        ({"min_agreement": 0.0}, "min_agreement must be > 0 and <= 1"),
        ({"max_share": 1.5}, "max_share must be > 0 and <= 1, but is 1.5"),
        ({"target_share": float("nan")}, "target_share must be > 0 and <= 1, but is nan"),
    ],
)
def test_numbers_that_leave_nothing_to_do_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        FindFixVerifyConfig(**fields)
