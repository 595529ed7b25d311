"""Output schemas: how good, odd and hostile texts are read, why others are refused, schemas as JSON."""

from __future__ import annotations

import json
import re
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.output_schemas import (
    YES_NO,
    ChoiceSchema,
    FieldsSchema,
    ItemsSchema,
    NumberSchema,
    Refused,
    SpansSchema,
    TextSchema,
    is_blank,
    schema_from_json,
    schema_to_json,
    without_controls,
)

MILLION = 1_000_003
ESCAPES = "\x1b]0;title\x07\x1b[2J"  # a terminal's title, a cleared screen
HUGE_SPACES = "a" + " " * MILLION + "b"


def refusal(schema, text):
    with pytest.raises(Refused) as caught:
        schema.parse(text)
    return str(caught.value)


# -- choices --


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("yes", "yes"),
        (" Yes.\n", "yes"),
        ('"NO"', "no"),
        ("**yes**", "yes"),
        ("(no)", "no"),
        ("yes, because it is so", "yes"),
        ("No: not at all", "no"),
        ("yes\r\nand a reason", "yes"),
        ("no-one knows", "no"),
        ("\u200fyes\u200e", "yes"),
        ("\ufeffno", "no"),
        ("\x00yes\x07", "yes"),
        ("yes" + "!" * MILLION, "yes"),
    ],
)
def test_a_choice_is_what_the_text_is_or_begins_with(text, option):
    assert YES_NO.parse(text) == option


@pytest.mark.parametrize(
    "text", ["", " \n", "maybe", "yesterday", "nobody", "Answer: yes", "\x1b[31myes", "y" * MILLION, "<b>yes</b>"]
)
def test_what_begins_with_no_option_is_no_choice(text):
    reason = refusal(YES_NO, text)
    assert reason.startswith("the answer must be one of yes, no, but is '")
    assert len(reason) < 120
    assert reason.isprintable()


def test_of_options_that_begin_alike_the_longest_is_taken():
    schema = ChoiceSchema(options=("new", "new york", "york"))
    assert schema.parse("New York, I think") == "new york"
    assert schema.parse("new yorker") == "new"
    assert schema.parse("York") == "york"


def test_an_option_to_the_letter_goes_before_what_reads_alike():
    alike = ChoiceSchema(options=("A", "a", "!", "?"))
    assert [alike.parse(option) for option in alike.options] == list(alike.options)
    for text in ("something else", "% of it"):  # "!" is nothing without its sign, but not everything begins with it
        refusal(alike, text)


WORDS = st.text(alphabet="abcDEF 7-'", min_size=1, max_size=11).map(str.strip).filter(lambda word: word.strip("'- "))


@given(st.lists(WORDS, min_size=2, max_size=7, unique_by=lambda word: word.strip("\"'“”‘’«»` .:;!,()[]*").casefold()))
def test_every_option_comes_back_however_it_is_dressed(options):
    schema = ChoiceSchema(options=tuple(options))
    for option in options:
        for text in (option, f' "{option}". ', f"**{option.upper()}**", f"({option})\n"):
            assert schema.parse(text) == option


@pytest.mark.parametrize("options", [(), ("yes",), ("yes", "yes")])
def test_a_choice_needs_two_options(options):
    with pytest.raises(ConfigError, match="two or more different options"):
        ChoiceSchema(options=options)


# -- numbers --


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("The answer is 7.", 7),
        ("3 + 4 = 7", 7),
        ("10-3", 3),
        ("between 3-5", 5),
        ("-5", -5),
        ("so −5", -5),
        ("+5", 5),
        ("$1,234,567 in all", 1_234_567),
        ("1,2,3", 3),
        ("1,2345", 2345),
        ("12,34", 34),
        ("2.0", 2),
        ("1e3", 1000),
        ("1.2.3", 3),
        ("**42**\r\n", 42),
        ("9007199254740993", 2**53 + 1),
        ("0" * 5003 + "11", 11),
        ("\x1b[7m13\x07", 13),
        ("seven\u200f 13", 13),
    ],
)
def test_the_last_number_of_a_text_is_the_answer(text, value):
    found = NumberSchema().parse(text)
    assert (found, type(found)) == (value, int)


@pytest.mark.parametrize(("text", "value"), [(".5", 0.5), ("-0.25", -0.25), ("3.50", 3.5), ("2", 2.0), ("1e-2", 0.01)])
def test_a_number_need_not_be_whole(text, value):
    found = NumberSchema(is_whole=False, low=-0.25, high=3.5).parse(text)
    assert (found, type(found)) == (value, float)


@pytest.mark.parametrize(
    ("fields", "text", "reason"),
    [
        ({}, "", "the answer must be a number, but is ''"),
        ({}, "none at all", "the answer must be a number, but is 'none at all'"),
        ({}, "2.5", "the answer must be a whole number, but is 2.5"),
        ({}, "9" * 301, "the answer must be a number of at most 300 digits, but has 301"),
        ({}, "9" * MILLION, "the answer must be a number of at most 300 digits, but has 1000003"),
        ({"is_whole": False}, "1e999", "the answer must be a number of at most 300 digits, but has 1000"),
        ({"low": 1.0, "high": 5.0}, "0", "the answer must lie between 1.0 and 5.0, but is 0"),
        ({"low": 1.0, "high": 5.0}, "6", "the answer must lie between 1.0 and 5.0, but is 6"),
        ({"low": 0.0}, "-1", "the answer must lie between 0.0 and None, but is -1"),
    ],
)
def test_why_a_number_is_refused(fields, text, reason):
    assert refusal(NumberSchema(**fields), text) == reason


def test_limits_of_a_number_are_allowed_values():
    schema = NumberSchema(low=1.0, high=5.0)
    assert [schema.parse(str(rating)) for rating in range(1, 6)] == [1, 2, 3, 4, 5]
    assert NumberSchema(is_whole=False, low=0.1, high=0.1).parse("0.1") == 0.1
    with pytest.raises(ConfigError, match=r"low <= high, but has 5\.0 and 1\.0"):
        NumberSchema(low=5.0, high=1.0)


@given(st.integers(-(10**251), 10**251))
def test_every_whole_number_comes_back_exactly(number):
    for text in (str(number), f"17 and 3 make\n{number:,}.", f"x = {number}!"):
        assert NumberSchema().parse(text) == number


@given(st.floats(-1e299, 1e299))
def test_every_float_comes_back_exactly(number):
    assert NumberSchema(is_whole=False).parse(f"about {number!r}") == number


# -- texts --


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("  a cat  ", "a cat"),
        ('"a cat"', "a cat"),
        ("“a cat”", "a cat"),
        ("«a cat»", "a cat"),
        ("'It's the cat's.'", "It's the cat's."),
        ("‘It’s hers’", "It’s hers"),
        ('"this" and "that"', '"this" and "that"'),
        ("“this” and “that”", "“this” and “that”"),
        ("'this' or 'that'", "'this' or 'that'"),
        ('"He said "hi" there"', 'He said "hi" there'),
        ("“He said “hi” there”", "He said “hi” there"),
        ('a "cat"', 'a "cat"'),
        ('"a cat”', '"a cat”'),
        ("a\r\nb\rc\n\n", "a\nb\nc"),
        (f"a{ESCAPES}b\x00", "a]0;title[2Jb"),
        ("a\ud800b", "ab"),
        ("a\tb", "a\tb"),
        ("שלום\u200f, world", "שלום\u200f, world"),
        ("[bold]a[/bold] <b>b</b>", "[bold]a[/bold] <b>b</b>"),
        ("1. first", "1. first"),
    ],
)
def test_a_text_is_taken_without_quotes_around_it_and_without_controls(text, value):
    assert TextSchema().parse(text) == value


@pytest.mark.parametrize("text", ["", " \r\n\t", '""', '" "', "\x1b\x07", "\u200b\u200f\ufeff", "\u2028"])
def test_a_text_that_shows_nothing_is_refused(text):
    assert refusal(TextSchema(), text) == "the answer must hold text, but is empty"


def test_a_text_of_one_line_is_its_first():
    schema = TextSchema(is_one_line=True)
    assert schema.parse('\n\n"the answer"\nand why') == "the answer"
    assert TextSchema().parse("the answer\nand why") == "the answer\nand why"
    assert "on one line" in schema.format_line()
    assert "on one line" not in TextSchema().format_line()


def test_a_text_must_change_what_was_given_and_may_not_grow():
    given = "a cat  sat\nhere"
    differs = TextSchema(differs_from=given)
    assert (
        refusal(differs, ' "a cat sat here" ') == "the answer must differ from the text that was given, but is the same"
    )
    assert differs.parse("A cat sat here") == "A cat sat here"
    shown = TextSchema(unlike=("a dog", given))
    assert (
        refusal(shown, "a cat sat here")
        == refusal(shown, '"a dog"')
        == ("the answer must not repeat what was shown as an example, but does")
    )
    assert shown.parse("a dog sat here") == "a dog sat here"
    shorter = TextSchema(shorter_than="1234567")
    assert shorter.parse("abcdef") == "abcdef"
    assert refusal(shorter, "abcdefg") == (
        "the answer must be shorter than the text that was given (7 characters), but has 7"
    )
    limited = TextSchema(max_chars=5)
    assert limited.parse('"abcde"') == "abcde"
    assert refusal(limited, "abcdef") == "the answer must have at most 5 characters, but has 6"
    assert refusal(TextSchema(), "a" * MILLION) == "the answer must have at most 2000 characters, but has 1000003"


@given(
    st.text(alphabet="abc 7.\n", min_size=1).filter(str.strip), st.sampled_from(['""', "''", "“”", "‘’", "«»", "``"])
)
def test_one_pair_of_quotes_comes_off_every_text(text, pair):
    assert TextSchema().parse(f"{pair[0]}{text}{pair[1]}") == text.strip()


# -- items --


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a\nb\na", ["a", "b"]),
        ("b\na\nb\nc", ["b", "a", "c"]),
        ("- a\n* b\n• c\n– d", ["a", "b", "c", "d"]),
        ("1. a\r\n2) b\r\n(3) c\r\n 4: d", ["a", "b", "c", "d"]),
        ('"a"\n\n1. "b"\n', ["a", "b"]),
        ("a  b\na b", ["a  b"]),
        ("A\na", ["A", "a"]),
        ("3.5 percent\n1984: a year\n-5 degrees", ["3.5 percent", "1984: a year", "-5 degrees"]),
        ("a\n\u200b\n\u200f\n-  \n-\nb\n*", ["a", "b"]),
        ("1.\n12.", ["1.", "12."]),
        (f"a{ESCAPES}\n[red]b", ["a]0;title[2J", "[red]b"]),
        ("\n".join("abcdefghijklm"), list("abcdefghij")),
    ],
)
def test_items_lose_bullets_and_repetitions_and_keep_their_order(text, items):
    assert ItemsSchema().parse(text) == items


@pytest.mark.parametrize(
    ("fields", "text", "reason"),
    [
        ({}, " \n", "the answer must have at least 1 items, one a line, but has 0"),
        ({"min_items": 3}, "a\nb\na", "the answer must have at least 3 items, one a line, but has 2"),
        ({"max_item_chars": 5}, "a\nabcdef", "an item must have at most 5 characters, but one has 6"),
        ({}, "a" * MILLION, "an item must have at most 300 characters, but one has 1000003"),
        (
            {"must_match": "[a-z]+", "form": "a word in small letters"},
            "a\nB2\nC",
            "each item must be a word in small letters, but one is 'B2'",
        ),
    ],
)
def test_why_items_are_refused(fields, text, reason):
    assert refusal(ItemsSchema(**fields), text) == reason


def test_items_beyond_the_limit_are_left_out_unseen():
    schema = ItemsSchema(max_items=2, max_item_chars=3, must_match="[a-z]*", form="letters")
    assert schema.parse("a\nb\nlong one\n7") == ["a", "b"]


def test_items_that_nothing_fits_are_refused():
    for fields in ({"min_items": 3, "max_items": 2}, {"min_items": -1}, {"min_items": 0, "max_items": 0}):
        with pytest.raises(ConfigError, match="min_items must be >= 0 and max_items >= 1"):
            ItemsSchema(**fields)
    with pytest.raises(ConfigError, match="need a form in words"):
        ItemsSchema(must_match="a+")
    with pytest.raises(ConfigError, match="must be a regular expression"):
        ItemsSchema(must_match="(a", form="letters")


ITEM = (
    st.text(alphabet="abcB 7.,-", min_size=1, max_size=9).map(str.strip).filter(lambda item: item and item[0].isalpha())
)


@given(
    st.lists(ITEM, min_size=1, max_size=11, unique_by=lambda item: " ".join(item.split())),
    st.sampled_from(["{item}", "- {item}", "* {item}", "{number}. {item}", "({number})  {item}", '{number}) "{item}"']),
    st.sampled_from(["\n", "\r\n", "\n\n", "\r"]),
)
def test_items_come_back_from_every_kind_of_list(items, form, end):
    text = end.join(form.format(item=item, number=number) for number, item in enumerate(items, start=1))
    assert ItemsSchema(max_items=11).parse(text) == items


# -- spans --

TEXT = "The cat saw the dog; the dog saw the cat."


@pytest.mark.parametrize(
    ("quotation", "passages"),
    [
        ("The cat", [(0, 7)]),
        ('"The cat"', [(0, 7)]),
        ("- “saw the dog”", [(8, 19)]),
        ("the dog #1", [(12, 19)]),
        ("the dog #2", [(21, 28)]),
        ('2. "the dog" #2', [(21, 28)]),
        ('"the dog #2"', [(21, 28)]),
        ("saw the cat\nThe cat", [(0, 7), (29, 40)]),
        ("The cat\nThe cat", [(0, 7)]),
        ("The cat\r\n\r\n* saw the dog\u200b".replace("\u200b", "\x07"), [(0, 7), (8, 19)]),
    ],
)
def test_passages_are_found_where_they_are_quoted(quotation, passages):
    assert SpansSchema(text=TEXT).parse(quotation) == [list(passage) for passage in passages]


@pytest.mark.parametrize(
    ("quotation", "reason"),
    [
        ("", "at least 1 passages must be quoted, but there are 0"),
        ("the cow", "a passage must be quoted word for word, but 'the cow' is not in the text"),
        ("THE COW", "a passage must be quoted word for word, but 'THE COW' is not in the text"),
        ("the dog", "'the dog' occurs 2 times; quote more around it, or add #1 to #2"),
        ("the dog #3", "'the dog' occurs 2 times, but occurrence 3 was named"),
        ("the dog #0", "'the dog' occurs 2 times, but occurrence 0 was named"),
        ("#1", "a passage must be quoted word for word, but '#1' is not in the text"),
        ("the dog #" + "9" * 5003, "a passage must be quoted word for word, but 'the dog #"),
        ("The cat\n\x1b[2J", "a passage must be quoted word for word, but '[2J' is not in the text"),
        (HUGE_SPACES, "a passage must be quoted word for word, but 'a b' is not in the text"),
        ("x" * MILLION, "a passage must be quoted word for word, but 'xxx"),
    ],
)
def test_why_passages_are_refused(quotation, reason):
    assert refusal(SpansSchema(text=TEXT), quotation).startswith(reason)


def test_the_text_s_own_signs_are_quoted_as_they_stand():
    text = 'She said "no". 1. No #2 here; no.\n- done'
    for quote in ('"no".', "1. No", "No #2", '"no"', "- done", 'said "no". 1. No #2'):
        start = text.index(quote)
        assert SpansSchema(text=text).parse(quote) == [[start, start + len(quote)]]


def test_occurrences_that_overlap_are_counted():
    schema = SpansSchema(text="banana")
    assert refusal(schema, "ana").startswith("'ana' occurs 2 times")
    assert schema.parse("ana #1\nana #2") == [[1, 4], [3, 6]]


def test_passages_beyond_the_limit_are_left_out_from_the_end():
    schema = SpansSchema(text="abcdefg", max_spans=3)
    assert schema.parse("g\nb\na\ne") == [[0, 1], [1, 2], [4, 5]]
    assert SpansSchema(text="abc", min_spans=0).parse(" ") == []
    with pytest.raises(ConfigError, match="min_spans must be >= 0 and max_spans >= 1"):
        SpansSchema(text="abc", min_spans=2, max_spans=1)


@pytest.mark.parametrize(
    ("num_chars", "longest"),
    [(99, 99), (100, 69), (101, 70), (110, 76), (1010, 706)],  # less than 70% of 100 and more
)
def test_no_passage_is_most_of_a_long_text(num_chars, longest):
    text = "".join(chr(0x4E00 + place) for place in range(num_chars))
    schema = SpansSchema(text=text)
    assert schema.parse(text[:longest]) == [[0, longest]]
    assert schema.parse(text[-longest:]) == [[num_chars - longest, num_chars]]
    if longest < num_chars:
        reason = refusal(schema, text[: longest + 1])
        assert reason.startswith("a passage must be less than 70% of the text, but '")
    assert schema_from_json(schema_to_json(schema)).parse(text[:7]) == [[0, 7]]


def without_bullet(line):
    return re.sub(r"^(-|1{1,3}\.) +", "", line)


@given(st.data())
@settings(max_examples=300)
def test_a_quotation_comes_back_as_the_passage_it_was_cut_from(data):
    text = data.draw(st.text(alphabet='ab "“#1-. ', min_size=1, max_size=23).filter(str.strip))
    visible = [place for place, one in enumerate(text) if one != " "]
    start = data.draw(st.sampled_from(visible))
    end = data.draw(st.sampled_from([place for place in visible if place >= start])) + 1
    quote = text[start:end]
    starts = [place for place in range(len(text)) if text.startswith(quote, place)]
    schema = SpansSchema(text=text)
    if len(starts) == 1:
        assert schema.parse(quote) == [[start, end]]
    else:
        assert f"occurs {len(starts)} times" in refusal(schema, quote)
        number = starts.index(start) + 1
        numbered = f"{quote} #{number}"
        if without_bullet(numbered) not in text:  # else it is a literal quotation, which comes first
            assert schema.parse(numbered) == [[start, end]]
        assert f"occurrence {len(starts) + 1} was named" in refusal(schema, f"{quote}  #{len(starts) + 1}")


def test_where_a_number_may_be_part_of_the_passage_it_is():
    schema = SpansSchema(text="111#1--")
    assert schema.parse("- #1") == [[3, 5]]  # a line of a list, which quotes "#1"
    assert schema.parse("- #2") == [[6, 7]]


@pytest.mark.parametrize(
    ("quotation", "passages"),
    [
        ("THE DOG; THE", [(12, 24)]),
        ("The dog; The dog\nSAW THE CAT.", [(12, 28), (29, 41)]),
        ('- "the dOG; THE"', [(12, 24)]),
        ("The cat", [(0, 7)]),  # that of the other case is no occurrence of it
        ("the cat", [(33, 40)]),
        ("THE cat #1", [(0, 7)]),
        ('"THE cat" #2', [(33, 40)]),
        ("The DOG #2", [(21, 28)]),
    ],
)
def test_a_quotation_may_differ_in_case_where_no_literal_one_exists(quotation, passages):
    assert SpansSchema(text=TEXT).parse(quotation) == [list(passage) for passage in passages]


@pytest.mark.parametrize(
    ("quotation", "reason"),
    [
        ("THE CAT", "'THE CAT' occurs 2 times; quote more around it, or add #1 to #2"),
        ("THE", "'THE' occurs 4 times; quote more around it, or add #1 to #4"),
        ("the", "'the' occurs 3 times; quote more around it, or add #1 to #3"),
        ("THE CAT #3", "'THE CAT' occurs 2 times, but occurrence 3 was named"),
        ("the cat #2", "'the cat' occurs 1 times, but occurrence 2 was named"),
    ],
)
def test_occurrences_are_counted_among_those_that_match_alike(quotation, reason):
    assert refusal(SpansSchema(text=TEXT), quotation) == reason


@given(
    text=st.text(alphabet="aAbBéÉ", min_size=1, max_size=13), quote=st.text(alphabet="aAbBéÉ", min_size=1, max_size=3)
)
def test_literal_occurrences_come_before_those_of_another_case(text, quote):
    literal = [place for place in range(len(text)) if text.startswith(quote, place)]
    starts = literal or [place for place in range(len(text)) if text.lower().startswith(quote.lower(), place)]
    schema = SpansSchema(text=text)
    if len(starts) == 1:
        assert schema.parse(quote) == [[starts[0], starts[0] + len(quote)]]
    else:
        assert ("not in the text" if not starts else f"occurs {len(starts)} times; quote more") in refusal(
            schema, quote
        )
    for number, start in enumerate(starts, start=1):
        assert schema.parse(f"{quote} #{number}") == [[start, start + len(quote)]]


# -- fields --

FIELDS = FieldsSchema(names=("kind", "the belief"), options={"kind": ("motive", "character")}, max_chars=11)


@pytest.mark.parametrize(
    "text",
    [
        "kind: motive\nthe belief: he is late",
        "THE BELIEF : he is late\r\n\r\nKind: Motive.",
        "**Kind**: **motive**\n- **The belief:** he is late",
        '1. kind: "motive"\n2. the belief: "he is late"',
        "Well then.\nkind: motive (yes)\nthe belief: he is late\nkind: character\nother: 7",
        "kind:\nkind: motive\nthe belief: \u200b\nthe belief: \x07he is late",
    ],
)
def test_fields_are_read_in_the_order_of_the_schema(text):
    found = FIELDS.parse(text)
    assert found == {"kind": "motive", "the belief": "he is late"}
    assert list(found) == ["kind", "the belief"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there must be a line for kind, the belief, as in kind: ..."),
        ("kind: motive\nbelief: he is late", "there must be a line for the belief, as in the belief: ..."),
        ("kind motive\nthe belief: x", "there must be a line for kind, as in kind: ..."),
        ("kind: magic\nthe belief: x", "kind: the answer must be one of motive, character, but is 'magic'"),
        ("kind: motive\nthe belief: he is late.", None),
        ("kind: motive\nthe belief: he is late!!", "the belief must have at most 11 characters, but has 12"),
    ],
)
def test_why_fields_are_refused(text, reason):
    if reason is None:
        assert FIELDS.parse(text)["the belief"] == "he is late."
    else:
        assert refusal(FIELDS, text) == reason


def test_a_value_may_hold_a_colon():
    assert FieldsSchema(names=("time",)).parse("time: 10:30") == {"time": "10:30"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"names": ()}, "one or more different names"),
        ({"names": ("kind", "Kind.")}, "one or more different names"),
        ({"names": ("a: b",)}, "without a colon, but is 'a: b'"),
        ({"names": ("!",)}, "must be words"),
        ({"names": ("a",), "options": {"b": ("c", "d")}}, r"Options must be of fields \(a\), but are of \['b'\]"),
        ({"names": ("a",), "options": {"a": ("c",)}}, "two or more different options"),
    ],
)
def test_fields_that_no_text_could_have(fields, message):
    with pytest.raises(ConfigError, match=message):
        FieldsSchema(**fields)


# -- all of them --

SCHEMAS = (
    YES_NO,
    NumberSchema(),
    NumberSchema(low=-1.0, high=1.0, is_whole=False),
    TextSchema(max_chars=17, is_one_line=True, differs_from="a", shorter_than="abcdefg"),
    ItemsSchema(min_items=0, max_items=3, must_match="[^b]*", form="without b"),
    SpansSchema(text='a b a "7" #1', min_spans=0),
    FIELDS,
)
HOSTILE = st.text(alphabet=st.characters() | st.sampled_from('ab7 "“#:-*.\r\n\x1b\u200b\u202e'), max_size=37)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.kind)
@given(text=HOSTILE | HOSTILE.map("kind: motive\nthe belief: {}".format))
@example(text="9" * 5003)
@example(text="1" + ",111" * 997)
@example(text=HUGE_SPACES[:MILLION])
@settings(deadline=None)
def test_every_text_is_read_or_refused_in_words_that_can_be_shown_and_stored(schema, text):
    try:
        value = schema.parse(text)
    except Refused as why:
        told = str(why)
        assert 0 < len(told) < 300
        assert told.isprintable()
    else:
        assert json.loads(json.dumps(value, allow_nan=False)) == value
        json.dumps(value, ensure_ascii=False).encode()  # no half of a character
        assert without_controls(str(value)) == str(value)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.kind)
def test_a_schema_comes_back_from_json_and_says_how_to_answer(schema):
    again = schema_from_json(json.loads(json.dumps(schema_to_json(schema))))
    assert again == schema
    assert type(again) is type(schema)
    assert again.format_line() == schema.format_line() != ""


TEXTS = st.text(max_size=7)


@given(
    st.builds(ChoiceSchema, options=st.lists(TEXTS, min_size=2, max_size=5, unique=True).map(tuple))
    | st.builds(
        NumberSchema, low=st.none() | st.floats(-9, 0), high=st.none() | st.floats(0, 9), is_whole=st.booleans()
    )
    | st.builds(TextSchema, is_one_line=st.booleans(), differs_from=st.none() | TEXTS, shorter_than=st.none() | TEXTS)
    | st.builds(ItemsSchema, min_items=st.integers(0, 3), max_items=st.integers(3, 7))
    | st.builds(SpansSchema, text=TEXTS, max_share=st.floats(0, 1))
    | st.builds(FieldsSchema, names=st.just(("a", "b")), options=st.just({}) | st.just({"b": ("c", "d", "e")}))
)
def test_every_schema_comes_back_from_json(schema):
    assert schema_from_json(json.loads(json.dumps(schema_to_json(schema)))) == schema


def test_json_that_is_no_schema():
    with pytest.raises(ConfigError, match="is one of choice, number, text, items, spans, fields, but is 'picture'"):
        schema_from_json({"kind": "picture"})
    with pytest.raises(ConfigError, match="but is None"):
        schema_from_json({})
    with pytest.raises(ConfigError, match=r"output schema text does not fit.*\n.*unknown key 'colour'"):
        schema_from_json({"kind": "text", "colour": "red"})
    assert schema_from_json({"kind": "fields", "names": ["a"]}) == FieldsSchema(names=("a",))


def test_how_to_answer_in_words():
    assert YES_NO.format_line() == "Answer with one of: yes, no."
    assert ItemsSchema(min_items=3, max_items=7).format_line().startswith("Answer with 3 to 7 lines, one item a line")
    assert ItemsSchema(min_items=1, max_items=1).format_line().startswith("Answer with 1 line, ")
    assert ItemsSchema(must_match="a+", form="of a alone").format_line().endswith("Each must be of a alone.")
    assert "Quote 2 to 3 passages" in SpansSchema(text="abc", min_spans=2, max_spans=3).format_line()
    assert FIELDS.format_line().split("\n")[1:] == ["kind: motive or character", "the belief: ..."]


@given(HOSTILE)
def test_what_is_left_without_controls_moves_no_cursor(text):
    left = without_controls(text)
    assert all(one in "\n\t" or unicodedata.category(one) not in ("Cc", "Cs") for one in left)
    assert without_controls(left) == left
    kept = [one for one in text if unicodedata.category(one) not in ("Cc", "Cs")]
    assert [one for one in left if one not in "\n\t"] == kept


def test_what_shows_nothing():
    assert all(map(is_blank, ("", " \t\r\n", "\u200b\u200e\u2028\ufeff", "\x1b\ud800")))
    assert not any(map(is_blank, (".", " a", "\u200b7", "\ue000", "😀")))
