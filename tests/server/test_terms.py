"""What a search for text finds (`sgp` §7, text search)."""

from __future__ import annotations

import json

import pytest

from everyspan.server.terms import Answers, Texts, parse_texts, readable

TRACE = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"


def hit(terms: str | list[str], *values: object, name: str = "n", trace_id: str = "t") -> bool:
    texts = parse_texts([terms] if isinstance(terms, str) else terms)
    payloads = [readable(json.dumps(value, ensure_ascii=False).encode()) for value in values]
    return Answers(texts).hit(trace_id, name, payloads)


@pytest.mark.parametrize(
    ("term", "found", "missed"),
    [
        # Words: whole ones, one after another.
        ("red", ["a Red fox", "RED", "x-red_y", "réd red", 'say "red"'], ["redo", "bred", "r ed"]),
        ("  red fox ", ["the red  FOX ran", "red\nfox"], ["red, fox", "fox red", "reds fox"]),
        ("a1 2b", ["x a1 2b."], ["xa1 2b", "a1 2bc"]),
        # Phrases: as they stand, of whole words.
        ('"red fox"', ["a red fox"], ["red  fox", "red foxes", "fox red"]),
        ('"red, f"', ["red, fox"], ["red,f"]),
        (r'"say \"hi\""', ['they say "hi"'], ["say hi"]),
        (r'"a\\b"', [r"x a\b y"], ["a/b"]),
        (f'"{TRACE}"', [f"trace {TRACE}!"], ["1b4e28ba"]),
        # A phrase may stand within words if each of its words is whole somewhere.
        ('"ed fo"', ["red fox, ed fo", "ed fo"], ["red fox"]),
        # All else: wherever it stands.
        ("ed-fo", ["RED-FOX"], ["ed fo"]),
        ("größ", ["die Größe"], ["grosse", "GRÖSSE"]),
        ("日本", ["東京は日本の首都"], ["日 本"]),
        ('"open', ['an "opening'], ["an open"]),
        ('a "b" c', ['a "b" c'], ["a b c"]),
        (
            "one two three four five six seven eight n",
            ["one two three four five six seven eight nine"],
            ["one"],
        ),
        ("%_*", ["100%_*!"], ["100%"]),
        ("' OR 1=1 --", ["x' or 1=1 --"], ["x"]),
        ("x" * 2_048, ["y" + "x" * 3_000], ["x" * 2_047]),
        ('"' + "x" * 2_048 + '"', ["y" + "x" * 3_000], ["x" * 2_047]),
    ],
)
def test_a_term_finds_what_it_says(term: str, found: list[str], missed: list[str]) -> None:
    """`sgp` §7."""
    for text in found:
        assert hit(term, {"k": text}), text
        assert hit(term, None, {"k": [text]}), text
    for text in missed:
        assert not hit(term, {"k": text}), text
    assert not hit(term)


def test_keys_and_structure_are_text_too() -> None:
    """`sgp` §7: values are searched as JSON text."""
    assert hit("city", {"city": "Rome"})
    assert hit('"city": "rome"', {"city": "Rome"})
    assert hit("[1, 2]", {"n": [1, 2]})


@pytest.mark.parametrize("written", ["é\u2028\n\tÄ😀/", 'q"\\u0041\\', "\\n\\\\n", "a\\u00e9"])
def test_escapes_do_not_hide_text(written: str) -> None:
    """T1: however a sender writes it."""
    for text in (json.dumps(written), json.dumps(written, ensure_ascii=False)):
        assert readable(text.encode()) == f'"{written}"'.encode().lower()
    assert readable(rb'"\/\ud83d\ude00\u0041\ud800"') == '"/😀a\\ud800"'.encode()


def test_a_name_is_searched_in_part_but_for_phrases() -> None:
    """`sgp` §7."""
    assert hit("ook fl", name="Book flight")
    assert hit("k-f", name="book-flight")
    assert not hit('"book"', name="book")
    assert not hit("ookx", {"a": "x"}, name="ook")


def test_a_value_holds_a_term_alone() -> None:
    """`sgp` §7: contiguous inside one of input, output and metadata."""
    assert not hit("red fox", {"a": "red"}, {"b": "fox"})
    assert not hit('"red"', {"a": "redo"}, {"b": "rd"})


def test_all_terms_or_the_trace() -> None:
    """`sgp` §7, T3."""
    assert hit(["red", "blue"], {"a": "red"}, {"b": "blue"})
    assert not hit(["red", "blue"], {"a": "red"})
    assert hit(["red", "blue", TRACE.upper()], {"a": "green"}, trace_id=TRACE)
    assert hit([TRACE], trace_id=TRACE)
    assert not hit([TRACE], {"trace": TRACE})
    assert not hit([], {"a": 1})
    assert parse_texts([TRACE, " red ", "Red"]) == Texts(parse_texts(["red"]).terms, (TRACE,))


@pytest.mark.parametrize("term", ["", " ", "x", " x ", '""', '"x"', r'"\""', "x" * 65_537])
def test_a_term_has_a_least_and_a_greatest_length(term: str) -> None:
    """`sgp` §7: counted between the quotes."""
    with pytest.raises(ValueError, match="1"):
        parse_texts(["fine", term])


@pytest.mark.parametrize("piece", ["a", "aa ", "a-", '"', "\\", "ab ab "])
def test_hostile_terms_and_text_cost_time_by_their_length_alone(piece: str) -> None:
    """P5."""
    text = piece * ((1 << 20) // len(piece))
    hit(["aa", "a a", "aa aa aa ab", '"aa ab"', "a-" * 1_000, text[:60_000]], text)
