r"""What a text search asks, and whether a span answers it (`sgp` §7, text search).

The rules stand here and nowhere else; a store's index may only narrow down where to look.

T1  Searched are the name, and input, output and metadata as JSON text with its escapes undone: a
    line break in a value is one here, so that a word after it is a word, and `é` is found however
    it was written.
T2  Letters A to Z match in either case. Whatever is no ASCII letter or digit bounds a word.
T3  A span answers if it has every term, or if its trace is one that is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

TERMS_MAX = 10
TERM_LENGTH_MIN = 2
TERM_LENGTH_MAX = 65_536
"""Characters; chosen."""
WORDS_MAX = 8
WORD_BYTES_MAX = 2_047
"""A longer word matches within words."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_PHRASE = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_PHRASE_ESCAPE = re.compile(r'\\(["\\])')
_WORDS = re.compile(rb"\s*[a-z0-9]+(?:\s+[a-z0-9]+){0,%d}\s*" % (WORDS_MAX - 1))
_ESCAPED = re.compile(
    rb"\\u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|[0-9a-fA-F]{4})"
)
_SIMPLE_ESCAPES = (
    *((rb"\"", b'"'), (rb"\n", b"\n"), (rb"\t", b"\t"), (rb"\/", b"/")),
    *((rb"\r", b"\r"), (rb"\b", b"\b"), (rb"\f", b"\f")),
)

_decode_text = msgspec.json.Decoder(str).decode


class Term(msgspec.Struct, frozen=True):
    """One term. All text is in lower case.

    `words` are the whole words that it asks for: of a term of kind `words` as they follow one
    another, of a phrase somewhere in the same value.
    """

    kind: Literal["words", "phrase", "substring"]
    text: bytes
    words: tuple[bytes, ...] = ()


class Texts(msgspec.Struct, frozen=True):
    """What a search asks of a span's text: every term, or one of the traces (T3)."""

    terms: tuple[Term, ...] = ()
    trace_ids: tuple[str, ...] = ()


def parse_texts(texts: Iterable[str]) -> Texts:
    """Return what terms as they are typed ask for.

    Raises:
        ValueError: A term has too few or too many characters; the argument is its place.
    """
    terms: list[Term] = []
    trace_ids: list[str] = []
    for place, text in enumerate(texts):
        text = text.strip()
        if _UUID.fullmatch(text):
            trace_ids += [text, text.lower()]
            continue
        phrase = _PHRASE.fullmatch(text)
        if phrase is not None:
            text = _PHRASE_ESCAPE.sub(r"\1", phrase[1])
        if not TERM_LENGTH_MIN <= len(text) <= TERM_LENGTH_MAX:
            raise ValueError(place)
        lowered = text.encode().lower()
        words = tuple(lowered.split()) if _WORDS.fullmatch(lowered) else ()
        short = tuple(word for word in words if len(word) <= WORD_BYTES_MAX)
        if phrase is not None:
            terms.append(Term("phrase", lowered, short))
        elif words and short == words:
            terms.append(Term("words", lowered, words))
        else:
            terms.append(Term("substring", lowered))
    return Texts(tuple(dict.fromkeys(terms)), tuple(dict.fromkeys(trace_ids)))


def readable(payload: bytes) -> bytes:
    """Return JSON text as it is searched: in lower case, its escapes undone (T1)."""
    if b"\\" in payload:
        # Between doubled backslashes each other one begins an escape.
        payload = b"\\".join(map(_undo_escapes, payload.split(rb"\\")))
    return payload.lower()


def _undo_escapes(part: bytes) -> bytes:
    if b"\\" not in part:
        return part
    for escape, character in _SIMPLE_ESCAPES:
        part = part.replace(escape, character)
    return _ESCAPED.sub(_unescape, part) if rb"\u" in part else part


def _unescape(found: re.Match[bytes]) -> bytes:
    try:
        return _decode_text(b'"%b"' % found[0]).encode()
    except msgspec.DecodeError:
        return found[0]  # Half of a pair.


class Answers:
    """Whether spans answer."""

    def __init__(self, texts: Texts) -> None:
        self._trace_ids = frozenset(texts.trace_ids)
        self._terms = [(term, _patterns(term)) for term in texts.terms]

    def hit(self, trace_id: str, name: str, payloads: Iterable[bytes]) -> bool:
        """Whether a span with these answers.

        Args:
            payloads: Its input, output and metadata, each made `readable`.
        """
        if trace_id in self._trace_ids:
            return True
        if not self._terms:
            return False
        named = name.encode().lower()
        values = list(payloads)
        return all(_has(term, patterns, named, values) for term, patterns in self._terms)


def _patterns(term: Term) -> list[re.Pattern[bytes]]:
    """Return what finds the words of a term in readable text."""
    if term.kind == "words":
        return [_whole(term.words)]
    return [_whole((word,)) for word in term.words]


def _whole(words: tuple[bytes, ...]) -> re.Pattern[bytes]:
    # It begins with the plain letters of the first word, which are found fast.
    first, *rest = words
    following = b"".join(rb"\s+" + word for word in rest)
    return re.compile(rb"%b(?<![a-z0-9]%b)%b(?![a-z0-9])" % (first, first, following))


def _has(term: Term, patterns: list[re.Pattern[bytes]], name: bytes, values: list[bytes]) -> bool:
    if term.kind == "words":
        return term.text in name or any(patterns[0].search(value) for value in values)
    if term.kind == "phrase":
        return any(
            term.text in value and all(pattern.search(value) for pattern in patterns)
            for value in values
        )
    return term.text in name or any(term.text in value for value in values)
