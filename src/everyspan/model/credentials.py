"""Find credentials: by the key they stand under, and by their shape (`sgp` §6).

`redact` works on decoded values, `redact_json` on JSON text; what holds none stays there as it
is written: numbers keep their digits, and spaces their places.
"""

from __future__ import annotations

import functools
import re
from typing import Any, Final

import msgspec

REDACTED: Final = "[REDACTED:credential]"
"""`sgp` §6: what stands where a credential was."""

NOTHING_FOUND: Final = object()

_SECRET_KEYS = (
    *("password", "passwd", "secret", "apikey", "accesskey", "secretkey", "accesstoken"),
    *("refreshtoken", "authtoken", "idtoken", "privatekey", "clientsecret", "authorization"),
    *("cookie", "setcookie", "credential", "credentials", "connectionstring"),
)
KEY_LENGTH_KEPT = 64
"""Characters; the longest name of a credential, separated letter by letter, has fewer."""

_PASSES_MAX = 8
_SEPARATORS = str.maketrans("", "", "-_")

_BEARER = re.compile(r"((?i:bearer)\s+)[A-Za-z0-9._~+/=-]{8,}")
# All of a run of such letters at once, be it a token or not: tried from every `eyJ` in it, a text
# of many would take time by its square.
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]++(\.[A-Za-z0-9_-]++\.[A-Za-z0-9_-]*+)?")
_DASHED = re.compile(r"\bsk-(?:ant-[A-Za-z0-9_-]+|[A-Za-z0-9_-]{20,})|\bxox[abprs]-[A-Za-z0-9-]+")
_UNDERLINED = re.compile(r"\bgh[pousr]_[A-Za-z0-9]+|\bgithub_pat_[A-Za-z0-9_]+|\bhf_[A-Za-z0-9]+")
_CLOUD = re.compile(r"\bAKIA[A-Z0-9]+|\bAIza[A-Za-z0-9_-]+")
_ADDRESS = re.compile(r"(://[^\s/@:]*:)[^\s/]+(@)")
# JSON within text, or within JSON within text, as the arguments of a tool call travel; Python's
# literals too. Each level within another writes its quotes behind more backslashes. A text that was
# cut may lack the end of its last value.
_MEMBER = re.compile(
    r"""(?<!\\)(\\{7}|\\{3}|\\|)(["'])([A-Za-z0-9_-]+)\1\2\s*+:\s*+"""
    r"""(?=(\1(["'])(?:[^\\"']++|(?!(?:\1\1\\\\)*+\1\5)(?:\\++["']?+|["']))*+"""
    r"""(?:(?:\1\1\\\\)*+\1\5|\Z)|-?\d[\d.eE+-]*+))"""
)

# What `may_hold_credential` looks for. Each begins with one letter, which is found fast, and looks
# back from there.
_ESCAPED = re.compile(rb"\\(?=[u/])")
# `task-1` is none: before `sk-` there is no letter, but for that of an escape.
_DASHED_LOOK = re.compile(
    rb"-(?:(?<=sk-)(?:(?<![ac-eg-mo-qsu-zA-Z0-9_]sk-)|(?<=\\u00..sk-))|(?<=xox[abprs]-))"
)
_UNDERLINED_LOOK = re.compile(rb"_(?:(?<=gh[pousr]_)|(?<=hf_)|(?<=github_pat_))")
_LOWER = bytes(range(256)).lower()
_FOLDING: dict[int, list[bytes]] = {}
"""The characters beyond ASCII that fold into letters of it, in UTF-8, by their first byte."""
for _char in (
    "\u00df\u0130\u0149\u017f\u01f0\u1e96\u1e97\u1e98\u1e99\u1e9a\u1e9e\u212a"
    "\ufb00\ufb01\ufb02\ufb03\ufb04\ufb05\ufb06"
):
    _FOLDING.setdefault(_char.encode()[0], []).append(_char.encode())
_RARE_MAX = 64
"""Places that are looked at one by one."""


def _key_look() -> re.Pattern[bytes]:
    """Return a pattern of the colon after a key that may name a credential, in folded text."""

    def names(before_quote: str = "") -> str:
        by_length: dict[int, list[str]] = {}
        for key in _SECRET_KEYS:
            by_length.setdefault(len(key), []).append(key)
        return "|".join(
            rf"""(?<=(?:{"|".join(keys)}){before_quote}["']:)""" for keys in by_length.values()
        )

    # Nearly all keys fail by their last three letters. Spaces before the colon, also such as stand
    # in text within text only, and quotes that are escaped more than once, are rare: whatever has
    # them is looked at closely.
    ends = "|".join(sorted({key[-3:] for key in _SECRET_KEYS}))
    escaped = names(r"\\")
    pattern = (
        rf""":(?:(?<=(?:{ends})["']:)(?:{names()})"""
        rf"""|(?<=\\["']:)(?:(?<=\\\\["']:)|{escaped})"""
        r"""|(?<=\s:)|(?<=\\[nrtf]:)|(?<=\\u00..:)"""
        r"""|(?<=\xc2[\x85\xa0]:)|(?<=[\xe1-\xe3][\x80\x81\x9a][\x80-\xaf]:))"""
    )
    return re.compile(pattern.encode())


_KEY_LOOK = _key_look()
_STRING = re.compile(rb'("(?:[^"\\]++|\\.)*+")(\s*+:\s*+)?+', re.DOTALL)
_NUMBER = re.compile(rb"[-+.eE0-9]*+")
_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\]]', re.DOTALL)

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_REDACTED_JSON = _encode(REDACTED)


def redact(value: Any) -> Any:
    """Take credentials out of a value that was decoded from JSON, in place.

    Returns:
        The value, or what stands instead of it; `NOTHING_FOUND` where it may stay as it is.
    """
    if isinstance(value, str):
        text = redact_text(value)
        return NOTHING_FOUND if text == value else text
    is_changed = False
    containers = [value] if isinstance(value, dict | list) else []
    while containers:
        container: Any = containers.pop()
        is_object = isinstance(container, dict)
        renamed = []
        pairs: Any = container.items() if is_object else enumerate(container)
        for key, inner in pairs:
            kind = type(inner)
            if is_object:
                if redact_key(key) != key:
                    renamed.append(key)
                if _is_secret_key(key) and not (inner is None or kind is bool or inner == REDACTED):
                    # Only the value changes: the loop may go on.
                    container[key] = REDACTED
                    is_changed = True
                    continue
            if kind is str:
                text = redact_text(inner)
                if text != inner:
                    container[key] = text
                    is_changed = True
            elif kind is dict or kind is list:
                containers.append(inner)
        for key in renamed:
            container[redact_key(key)] = container.pop(key)
            is_changed = True
    return value if is_changed else NOTHING_FOUND


def may_hold_credential(text: bytes) -> bool:
    """Whether JSON text may hold a credential; False is certain.

    A look over the bytes, for what the patterns need to match: a few searches, at some 3 ns a byte,
    where decoding and matching takes three times that.
    """
    if b"\\" in text and _ESCAPED.search(text):
        # Characters that can be part of a credential, or of what tells one, may be written in
        # another way.
        try:
            text = _encode(_decode(text))
        except (msgspec.MsgspecError, RecursionError):
            return True  # A number that is too much for Python.
    if (
        (b"-" in text and _DASHED_LOOK.search(text))
        or (b"_" in text and _UNDERLINED_LOOK.search(text))
        or (b"@" in text and b"://" in text)
        or _holds(text, b"eyJ", b"J")
        or _holds(text, b"AKIA", b"K")
        or _holds(text, b"AIza", b"z")
    ):
        return True
    if not text.isascii() and _folds_to_ascii(text):
        text = text.decode().casefold().encode()
    folded = text.translate(_LOWER, b"-_")
    return _KEY_LOOK.search(folded) is not None or b"bearer" in folded


def _folds_to_ascii(text: bytes) -> bool:
    """Whether there are characters beyond ASCII that fold into letters of it; few have any."""
    return any(
        lead in text and any(_holds(text, char, char[-1:]) for char in chars)
        for lead, chars in _FOLDING.items()
    )


def _holds(text: bytes, word: bytes, rare: bytes) -> bool:
    """Whether `word` is in the text, by its rarest letter: one letter is found at no cost."""
    before = word.index(rare)
    at = text.find(rare)
    for _ in range(_RARE_MAX):
        if at < 0:
            return False
        if text.startswith(word, max(at - before, 0)):
            return True
        at = text.find(rare, at + 1)
    return word in text  # It is not rare in here.


def redact_json(text: bytes) -> bytes:
    """Return JSON text without credentials; the same object where it holds none.

    Args:
        text: Valid UTF-8 and JSON; bounded in depth.
    """
    if not may_hold_credential(text):
        return text
    kept: list[bytes] = []
    at = 0
    for found in _STRING.finditer(text):
        # What stands within a value that is gone already begins before `at`.
        if found.start() < at:
            continue
        string = _decode(found[1])
        redacted = redact_text(string)
        if redacted != string:
            kept += [text[at : found.start()], _encode(redacted)]
            at = found.end(1)
        if found[2] is not None and _is_secret_key(string):
            start = found.end()
            end = _secret_end(text, start)
            if end > start:
                kept += [text[at:start], _REDACTED_JSON]
                at = end
    return b"".join([*kept, text[at:]]) if kept else text


def _secret_end(text: bytes, start: int) -> int:
    """Return where the value at `start` ends, `start` itself if it may stay: null, true, false."""
    opening = text[start : start + 1]
    if opening in (b"n", b"t", b"f"):
        return start
    if opening == b'"':
        string = _STRING.match(text, start)
        assert string is not None
        return start if string[1] == _REDACTED_JSON else string.end(1)
    if opening not in (b"{", b"["):
        number = _NUMBER.match(text, start)
        assert number is not None
        return number.end()
    depth = 0
    for found in _STRUCTURE.finditer(text, start):
        token = found[0]
        depth += (token in (b"{", b"[")) - (token in (b"}", b"]"))
        if depth == 0:
            return found.end()
    raise AssertionError("no JSON")


def redact_text(text: str) -> str:
    """Return text without what is shaped like a credential, or stands under such a key in it."""
    # One that goes may leave the beginning of a word, which a pattern of another wants; seldom.
    for _ in range(_PASSES_MAX):
        before, text = text, _redact_once(text)
        if text == before:
            break
    return text


def _redact_once(text: str) -> str:
    # The looks cost a tenth of the patterns, and nearly all text passes them by.
    if "-" in text and ("sk-" in text or "xox" in text):
        text = _DASHED.sub(REDACTED, text)
    if "_" in text and ("gh" in text or "hf_" in text or "github" in text):
        text = _UNDERLINED.sub(REDACTED, text)
    if "AKIA" in text or "AIza" in text:
        text = _CLOUD.sub(REDACTED, text)
    if "eyJ" in text:
        text = _JWT.sub(_redacted_jwt, text)
    if "://" in text and "@" in text:
        text = _ADDRESS.sub(rf"\1{REDACTED}\2", text)
    if "bearer" in text.lower():
        text = _BEARER.sub(rf"\1{REDACTED}", text)
    if ":" in text and ('"' in text or "'" in text):
        text = _redact_members(text)
    return text


def _redacted_jwt(found: re.Match[str]) -> str:
    return found[0] if found[1] is None else REDACTED


def _redact_members(text: str) -> str:
    kept, at = [], 0
    for found in _MEMBER.finditer(text):
        # What stands within a value that is gone already begins before `at`.
        if found.start() >= at and _is_secret_key(found[3]):
            quote = found[1] + found[2]
            kept += [text[at : found.start(4)], quote, REDACTED, quote]
            at = found.end(4)
    return "".join(kept) + text[at:] if kept else text


# An agent uses few different keys. A hostile one does not, or uses long ones: the caches are
# bounded in both ways, since what they hold is charged to nobody.


def _is_secret_key(key: str) -> bool:
    return _ends_like_a_secret(key[-KEY_LENGTH_KEPT:])


def redact_key(key: str) -> str:
    """Return a key, or another text that comes again and again, as `redact_text` does."""
    return _redact_short(key) if len(key) <= KEY_LENGTH_KEPT else redact_text(key)


@functools.lru_cache(maxsize=1024)
def _ends_like_a_secret(key: str) -> bool:
    return key.casefold().translate(_SEPARATORS).endswith(_SECRET_KEYS)


_redact_short = functools.lru_cache(maxsize=1024)(redact_text)
