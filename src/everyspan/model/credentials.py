"""Find credentials in plain values: by the key they stand under, and by their shape (`sgp` §6)."""

from __future__ import annotations

import functools
import re
from typing import Any, Final

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


def redact(value: Any) -> Any:
    """Take credentials out of a value that was decoded from JSON, in place.

    Returns:
        The value, or what stands instead of it; `NOTHING_FOUND` where it may stay as it is.
    """
    if isinstance(value, str):
        text = _redact_text(value)
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
                if _redact_key(key) != key:
                    renamed.append(key)
                if _is_secret_key(key) and not (inner is None or kind is bool or inner == REDACTED):
                    # Only the value changes: the loop may go on.
                    container[key] = REDACTED
                    is_changed = True
                    continue
            if kind is str:
                text = _redact_text(inner)
                if text != inner:
                    container[key] = text
                    is_changed = True
            elif kind is dict or kind is list:
                containers.append(inner)
        for key in renamed:
            container[_redact_key(key)] = container.pop(key)
            is_changed = True
    return value if is_changed else NOTHING_FOUND


def _redact_text(text: str) -> str:
    # The looks cost a tenth of the patterns, and nearly all text passes them by.
    if "-" in text and ("sk-" in text or "xox" in text):
        text = _DASHED.sub(REDACTED, text)
    if "_" in text and ("gh" in text or "hf_" in text):
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


def _redact_key(key: str) -> str:
    return _redact_short(key) if len(key) <= KEY_LENGTH_KEPT else _redact_text(key)


@functools.lru_cache(maxsize=1024)
def _ends_like_a_secret(key: str) -> bool:
    return key.casefold().translate(_SEPARATORS).endswith(_SECRET_KEYS)


_redact_short = functools.lru_cache(maxsize=1024)(_redact_text)
