"""Show as JSON what the JSON encoder refuses or what is too big: slower, bounded, never failing.

R1  The answer is valid JSON of at most `bytes_max` bytes, whatever the value is or does.
R2  Reading stops where the budget (bytes, nodes, depth) ends; what is not shown is marked in place
    with `…[everyspan: …]`. Where something must go, the small things around it stay.
R3  The value is only read. Nothing with `__next__` or `__anext__` is iterated, no `__len__`,
    `__bool__`, `__eq__`, `__hash__` or `__iter__` of a user's class is called, no property is
    evaluated but what `model_dump`, fields and `repr` need. What they raise becomes a mark.
R4  What the encoder writes by itself (`docs/decisions/020-freezing.md` has the table) looks the
    same here.

Containers are copied shallowly in one C call before they are walked, so that another thread may
change them meanwhile. Knows nothing of spans.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import functools
import types
import uuid
from base64 import b64encode
from collections import UserDict, deque
from collections.abc import Callable, Iterable
from enum import Enum
from gc import get_referents
from itertools import islice
from pathlib import PurePath
from typing import Any, Final

import msgspec

DEPTH_MAX: Final = 64
"""Containers inside each other that are shown; chosen: readers recurse, and stop at 1,000."""

NODES_MAX: Final = 1_000
"""Values one repair visits one by one; about 2 µs each (`benchmarks/freeze.py`)."""

LOOK_NODES_MAX: Final = 25_000
"""Values of builtin types that are encoded in one go; about 50 ns each to look at."""

REPR_CHARS_MAX: Final = 2_000
ARRAY_ITEMS_MAX: Final = 1_000
_INT_BITS_MAX: Final = 14_000  # Python's own bound is 4,300 digits, 14,284 bits.
_NAME_CHARS_MAX: Final = 200
_RUN_ITEMS: Final = 64
_CONVERSIONS_MAX: Final = 16

# A mark with the largest count, quoted, with a comma, fits in _MARK_BYTES.
_MARK_BYTES: Final = 96
_OPEN_BYTES: Final = 2 + 16 + _MARK_BYTES  # brackets, the key of a mark, the mark
_CUT_KEY: Final = '"…[everyspan]":'.encode()

_encode: Final[Callable[[Any], bytes]] = msgspec.json.Encoder().encode

_ATOMS: Final = frozenset({str, int, float, bool, types.NoneType})
_CONTAINERS: Final = frozenset({dict, list, tuple})
_PLAIN: Final = _ATOMS | _CONTAINERS
_ONLY_DICTS: Final = frozenset({dict})


registered: Final[dict[type, Callable[[Any], object]]] = {}
"""What `register` was told; the fast path is closed while there is anything."""


def mark(what: str) -> str:
    """Return the text that stands where something is not shown."""
    return f"…[everyspan: {what}]"


class Verdict(Enum):
    """What a look at a container found."""

    PLAIN = 1
    ODD = 2
    BIG = 3


def look(value: object, *, bytes_max: int, nodes_max: int, depth_max: int) -> tuple[Verdict, int]:
    """Say whether a container holds only exact builtin JSON types, and within the bounds.

    Goes level by level in C: no code of the user's runs. Bytes are those of the texts alone, a
    character counted as one; keys are not judged (the encoder refuses odd ones).

    Returns:
        The verdict, and how many values were looked at. Too deep is ODD.
    """
    seen = 1
    level: list[Any] = [value]
    for _ in range(depth_max):
        if seen + sum(map(len, level)) > nodes_max:
            return Verdict.BIG, seen
        inner = get_referents(*level)
        seen += len(inner)
        kinds = set(map(type, inner))
        if kinds == _ONLY_DICTS:  # the usual list of messages or rows
            level = inner
            continue
        if not kinds <= _PLAIN:
            return Verdict.ODD, seen
        if str in kinds:
            bytes_max -= sum([len(item) for item in inner if type(item) is str])
            if bytes_max < 0:
                return Verdict.BIG, seen
        if kinds.isdisjoint(_CONTAINERS):
            return Verdict.PLAIN, seen
        level = [item for item in inner if type(item) in _CONTAINERS]
    return Verdict.ODD, seen


def register(type_: type, fn: Callable[[Any], object]) -> None:
    """Say how values of a type, and of its subclasses, are shown in payloads.

    Args:
        type_: A class; the exact builtin JSON types cannot be shown otherwise.
        fn: Gets the value, returns something to show in its place. Runs on the agent's thread, on
            every payload that holds such a value; what it raises becomes a mark.

    Raises:
        TypeError: `type_` is no class or one of `str int float bool NoneType dict list tuple`,
            or `fn` cannot be called.
    """
    if not isinstance(type_, type):
        raise TypeError(f"type_ must be a class, got {type_!r}")
    if type_ in _PLAIN:
        raise TypeError(f"type_ must not be a builtin JSON type, got {type_.__name__}")
    if not callable(fn):
        raise TypeError(f"fn must be callable, got {fn!r}")
    registered[type_] = fn


def repair(value: object, *, bytes_max: int) -> bytes:
    """Return `value` as JSON; see R1 to R4.

    Args:
        value: Anything.
        bytes_max: Most bytes of the answer, at least 512.
    """
    try:
        return _Writer(bytes_max, cutting=False).write(value)
    except _FullError:
        # Only now is it known that something must go: let no part take more than half of what
        # is left, so that the short texts beside a huge one survive.
        return _Writer(bytes_max, cutting=True).write(value)


class _FullError(Exception):
    """The budget ended in a pass that must not cut."""


class _Items:
    """The first values of an array, copied; `total` is how many there are."""

    __slots__ = ("total", "values")

    def __init__(self, values: list[Any], total: int) -> None:
        self.values = values
        self.total = total


class _Entries(_Items):
    """The first (key, value) pairs of an object, copied."""

    __slots__ = ()


class _Cut:
    """A text that was cut to its room, with the mark that says so."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class _Frame:
    """One open container: what is left to write, and the budget it must not go below."""

    __slots__ = (
        "bytes_floor",
        "entries",
        "missing",
        "next",
        "nodes_floor",
        "owners",
        "runs",
        "values",
    )

    def __init__(
        self, items: _Items, owners: list[object], *, bytes_floor: int, nodes_floor: int
    ) -> None:
        self.values = items.values
        self.next = 0
        self.missing = items.total - len(items.values)
        self.entries = isinstance(items, _Entries)
        self.runs = True  # its items are perhaps plain, many at a time
        self.owners = owners  # kept alive: their ids stand for them in the search for cycles
        self.bytes_floor = bytes_floor
        self.nodes_floor = nodes_floor


class _Writer:
    """Writes one value, without recursion: the caller's stack may be nearly full."""

    def __init__(self, bytes_max: int, *, cutting: bool) -> None:
        self._bytes_left = bytes_max
        self._nodes_left = NODES_MAX
        self._look_left = LOOK_NODES_MAX
        self._cutting = cutting
        self._parts: list[bytes] = []
        self._stack: list[_Frame] = []
        self._open_ids: set[int] = set()

    def write(self, value: object) -> bytes:
        self._place(value, bytes_room=self._bytes_left, nodes_room=self._nodes_left)
        while self._stack:
            frame = self._stack[-1]
            if frame.next == len(frame.values):
                self._close(frame)
            else:
                self._next_item(frame)
        return b"".join(self._parts)

    def _next_item(self, frame: _Frame) -> None:
        if frame.runs and self._run(frame):
            return
        item = frame.values[frame.next]
        lead = b"," if frame.next else b""
        if frame.entries:
            key, item = item
            lead += _key(key, chars_max=self._bytes_left) + b":"
        bytes_room = self._bytes_left - frame.bytes_floor - len(lead)
        nodes_room = self._nodes_left - frame.nodes_floor
        if bytes_room < _MARK_BYTES or nodes_room <= 0:
            self._full()
            frame.missing += len(frame.values) - frame.next
            del frame.values[frame.next :]
            return
        frame.next += 1
        self._put(lead)
        if self._cutting and (frame.next < len(frame.values) or frame.missing):
            bytes_room = max(bytes_room // 2, _MARK_BYTES)
            nodes_room = max(nodes_room // 2, 1)
        self._place(item, bytes_room=bytes_room, nodes_room=nodes_room)

    def _run(self, frame: _Frame) -> bool:
        """Write the next items in one go; False, and never asked again, if they are not plain."""
        values = frame.values[frame.next : frame.next + _RUN_ITEMS]
        run: Any = values
        frame.runs = len(values) == _RUN_ITEMS
        if frame.runs and frame.entries:
            frame.runs = {type(key) for key, _ in values} == {str}
            run = dict(values) if frame.runs else None
        bytes_room = self._bytes_left - frame.bytes_floor - _MARK_BYTES
        encoded = self._plain(run, bytes_room) if frame.runs else None
        frame.runs = encoded is not None
        if encoded is None:
            return False
        self._put((b"," if frame.next else b"") + encoded[1:-1])
        self._nodes_left -= 1
        frame.next += len(values)
        return True

    def _close(self, frame: _Frame) -> None:
        self._stack.pop()
        self._bytes_left += _OPEN_BYTES
        if frame.missing:
            if frame.next:
                self._put(b",")
            if frame.entries:
                self._put(_CUT_KEY)
            self._put(_encode(mark(f"{frame.missing} items cut")))
        self._put(b"}" if frame.entries else b"]")
        for owner in frame.owners:
            self._open_ids.discard(id(owner))

    def _place(self, value: object, *, bytes_room: int, nodes_room: int) -> None:
        """Write a leaf or a plain container whole, or open a frame for its items."""
        self._nodes_left -= 1
        owners: list[object] = []
        shown: Any = value
        for _ in range(_CONVERSIONS_MAX):
            kind = type(shown)  # never isinstance: it asks the value, which may lie or act
            if kind in _ATOMS:
                return self._leaf(shown, bytes_room)
            if kind is _Items or kind is _Entries:
                return self._open(shown, owners, bytes_room=bytes_room, nodes_room=nodes_room)
            if kind is _Cut:
                self._full()
                return self._leaf(shown.text, bytes_room)
            if id(shown) in self._open_ids:
                return self._leaf(mark("cycle"), bytes_room)
            if kind in _CONTAINERS:
                encoded = self._plain(shown, bytes_room)
                if encoded is not None:
                    return self._put(encoded)
            owners.append(shown)
            if kind in _CONTAINERS and len(self._stack) >= DEPTH_MAX:
                return self._leaf(mark("too deep"), bytes_room)
            items_max = min(nodes_room + max(self._look_left, 0), bytes_room)
            shown = _show(shown, items_max=items_max, bytes_max=bytes_room)
        return self._leaf(mark("shown as itself"), bytes_room)

    def _plain(self, value: object, bytes_room: int) -> bytes | None:
        """Return a container of plain values as JSON; None if it is none, or too big."""
        verdict, seen = look(
            value,
            bytes_max=bytes_room,
            nodes_max=self._look_left,
            depth_max=DEPTH_MAX - len(self._stack),
        )
        self._look_left -= seen
        if verdict is not Verdict.PLAIN:
            if verdict is Verdict.BIG:
                self._full()
            return None
        try:
            encoded = _encode(value)
        except Exception:  # a lone surrogate, an odd key, a change by another thread
            return None
        return encoded if len(encoded) <= bytes_room else None

    def _open(
        self, items: _Items, owners: list[object], *, bytes_room: int, nodes_room: int
    ) -> None:
        if len(self._stack) >= DEPTH_MAX:
            return self._leaf(mark("too deep"), bytes_room)
        if items.total > len(items.values):
            self._full()
        if bytes_room < _OPEN_BYTES + _MARK_BYTES:
            self._full()
            return self._leaf(mark(f"{items.total} items cut"), bytes_room)
        frame = _Frame(
            items,
            owners,
            bytes_floor=self._bytes_left - bytes_room,
            nodes_floor=self._nodes_left - nodes_room,
        )
        self._stack.append(frame)
        self._open_ids.update(map(id, owners))
        self._put(b"{" if frame.entries else b"[")
        self._bytes_left -= _OPEN_BYTES - 1
        return None

    def _leaf(self, value: Any, bytes_room: int) -> None:
        if type(value) is str:
            if len(value) > bytes_room:
                self._full()
            encoded, whole = _text(value, bytes_room)
            if not whole:
                self._full()
        elif type(value) is int and value.bit_length() > min(_INT_BITS_MAX, bytes_room * 3):
            # Three bits a digit is less than log2(10): what passes fits its room.
            encoded = _encode(mark(f"integer of {value.bit_length()} bits"))
        else:
            encoded = _encode(value)
        self._put(encoded)

    def _put(self, encoded: bytes) -> None:
        self._parts.append(encoded)
        self._bytes_left -= len(encoded)

    def _full(self) -> None:
        if not self._cutting:
            raise _FullError


def _text(value: str, bytes_room: int) -> tuple[bytes, bool]:
    """Return `value` as JSON of at most `bytes_room` bytes, and whether all of it is there."""
    room = bytes_room
    chars = value
    if len(value) > bytes_room:  # a character is at least a byte
        room -= _MARK_BYTES
        sample = value[:1_000]
        chars = value[: max(0, room) * len(sample) // len(_encode_text(sample))]
    encoded = _encode_text(chars)
    if len(encoded) > bytes_room:
        room = bytes_room - _MARK_BYTES
    while len(encoded) > room and chars:
        # Drop what the average character would need; escapes are uneven, so ask again.
        dropped = max(1, len(chars) * (len(encoded) - room) // len(encoded))
        chars = chars[:-dropped]
        encoded = _encode_text(chars)
    if len(chars) == len(value):
        return encoded, True
    cut = mark(f"{len(value) - len(chars)} characters cut")
    return encoded[:-1] + _encode(cut)[1:], False


def _encode_text(chars: str) -> bytes:
    try:
        return _encode(chars)
    except UnicodeEncodeError:
        # Halves of a pair that belong together become one character, lone ones U+FFFD.
        return _encode(chars.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))


def _key(key: Any, *, chars_max: int) -> bytes:
    """Return a key as a JSON text; what JSON has other literals for is written as there."""
    text = mark("key")
    shown = key
    for _ in range(_CONVERSIONS_MAX):
        kind = type(shown)
        if kind is str:
            text = shown
        elif kind is float:
            text = _encode({shown: 0})[2:-4].decode()  # "nan", where a value would be null
        elif kind is int and shown.bit_length() > _INT_BITS_MAX:
            text = mark(f"integer of {shown.bit_length()} bits")
        elif kind in _ATOMS:
            text = _encode(shown).decode()
        elif kind is _Cut:
            text = shown.text
        elif kind is tuple and _is_small_key(shown):
            text = _encode(shown).decode()
        elif kind in _SHOWN_OPEN:
            text = _label(type(key))
        else:
            shown = _show(shown, items_max=0, bytes_max=500)
            continue
        break
    return _text(text, chars_max)[0]


def _is_small_key(key: tuple[Any, ...]) -> bool:
    return look(key, bytes_max=500, nodes_max=50, depth_max=8)[0] is Verdict.PLAIN


# What a value is shown as: another value, asked again until it is an atom, _Items or _Cut.
# A handler gets the most items and bytes it should read.


def _show(value: Any, *, items_max: int, bytes_max: int) -> Any:
    """Return something simpler to show in place of `value`; whatever it raises is marked."""
    kind = type(value)
    try:
        bases = _mro(kind)
        if registered:
            for base in bases:
                if (fn := registered.get(base)) is not None:
                    return fn(value)
        # The encoder's own order of asking comes first (R4).
        if kind in _EXACT:
            return _EXACT[kind](value, items_max, bytes_max)
        for base in bases:
            if (handler := _native.get(base)) is not None:
                return handler(value, items_max, bytes_max)
        names: set[str] = set()
        for base in bases[:-1]:  # the last is object
            names.update(_namespace(base))
        if "__dataclass_fields__" in names:
            return _show_dataclass(value)
        if "__attrs_attrs__" in names:
            return _show_attrs(value)
        for base in bases:
            if (handler := _handlers.get(base)) is not None:
                return handler(value, items_max, bytes_max)
        return _show_by_shape(value, bases, names)
    except KeyboardInterrupt:  # the user's Ctrl-C, not an answer of the value
        raise
    except BaseException as error:  # a user's code ran, and may raise SystemExit
        return _label(kind) + mark(_name(type(error)))


def _show_by_shape(value: Any, bases: tuple[type, ...], names: set[str]) -> Any:
    """Show what is known by what its class has rather than by its base; nothing is imported."""
    for base in bases:
        module = _module(base)
        if module == "numpy":
            return _show_numpy(value, base)
        if module == "pandas" or module.startswith("pandas."):
            return _show_pandas(value, base)
    if "__pydantic_serializer__" in names and "model_dump" in names:
        return _show_model(value)
    if not names.isdisjoint(_LAZY) or "__repr__" not in names:
        return _label(type(value))
    return _bounded(repr(value))


_LAZY: Final = frozenset(
    {"__iter__", "__next__", "__aiter__", "__anext__", "__await__", "__getattr__"}
)


def _show_model(value: Any) -> Any:
    too_big = {name for name, field in vars(value).items() if not _is_small(field)}
    try:
        shown = value.model_dump(mode="json", warnings=False, exclude=too_big or None)
    except Exception:  # an override with other arguments, or a field pydantic cannot make JSON of
        serializer = type(value).__pydantic_serializer__
        shown = serializer.to_python(
            value, mode="json", warnings=False, exclude=too_big or None, fallback=_atom
        )
    if too_big and type(shown) is dict:
        shown.update(dict.fromkeys(too_big, mark("too big to dump")))
    return shown


def _atom(value: object) -> object:
    """Show in one text or number what pydantic cannot."""
    shown = _show(value, items_max=0, bytes_max=REPR_CHARS_MAX)
    return shown if type(shown) in _ATOMS else _label(type(value))


def _is_small(value: Any) -> bool:
    """Say whether dumping a model's field stays cheap: few values, no bytes worth a megabyte."""
    nodes_max = LOOK_NODES_MAX
    level = [value]
    while level:
        inner: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                nodes_max -= dict.__len__(item)
                if nodes_max < 0:
                    return False
                inner.extend(item.values())
            elif kind in _SIZED:
                nodes_max -= len(item)
                if nodes_max < 0:
                    return False
                inner.extend(item)
            elif kind is bytes or kind is bytearray:
                if len(item) > 1 << 20:
                    return False
            elif kind not in _ATOMS:
                state = getattr(item, "__dict__", None) if "model_dump" in dir(kind) else None
                if type(state) is dict:
                    inner.append(state)
            nodes_max -= 1
        level = inner
    return True


def _show_numpy(value: Any, base: type) -> Any:
    dtype = value.dtype
    if base.__name__ == "ndarray":
        if value.size <= ARRAY_ITEMS_MAX:
            return value.tolist()
        return f"<numpy.ndarray shape={value.shape} dtype={dtype}>"
    if dtype.kind in "mM":
        return str(value)
    return float(value) if dtype.char == "g" else value.item()


def _show_pandas(value: Any, base: type) -> Any:
    if base.__name__ == "DataFrame":
        if value.size <= ARRAY_ITEMS_MAX:
            return value.to_dict("list")
        return f"<pandas.DataFrame shape={value.shape}>"
    if base.__name__ in {"Series", "Index"}:
        if value.size <= ARRAY_ITEMS_MAX:
            return value.tolist()
        return f"<pandas.{base.__name__} shape={value.shape} dtype={value.dtype}>"
    return _label(type(value)) if base.__name__ not in {"NaTType", "NAType"} else None


def _fields(value: Any, names: Iterable[str]) -> _Entries:
    pairs = []
    for name in names:
        try:
            field = getattr(value, name)
        except AttributeError:  # a slot or field that was never set
            continue
        if field is not msgspec.UNSET:
            pairs.append((name, field))
    return _Entries(pairs, len(pairs))


def _show_dataclass(value: Any) -> _Entries:
    fields = type(value).__dataclass_fields__
    return _fields(value, [name for name, field in fields.items() if field._field_type is _FIELD])


def _show_attrs(value: Any) -> _Entries:
    state = getattr(value, "__dict__", {})
    names = dict.fromkeys([*state, *(field.name for field in type(value).__attrs_attrs__)])
    return _fields(value, [name for name in names if not name.startswith("_")])


def _show_struct(value: Any, items_max: int, bytes_max: int) -> _Items:
    kind = type(value)
    config = kind.__struct_config__
    fields = [getattr(value, name) for name in kind.__struct_fields__]
    if config.array_like:
        items = fields if config.tag is None else [config.tag, *fields]
        return _Items(items, len(items))
    pairs = [] if config.tag is None else [(config.tag_field, config.tag)]
    defaults = kind.__struct_defaults__ if config.omit_defaults else ()
    required = len(fields) - len(defaults)
    for index, (name, field) in enumerate(zip(kind.__struct_encode_fields__, fields, strict=True)):
        if field is msgspec.UNSET or (
            index >= required and _is_default(field, defaults[index - required])
        ):
            continue
        pairs.append((name, field))
    return _Entries(pairs, len(pairs))


def _is_default(field: Any, default: Any) -> bool:
    factory = getattr(default, "factory", None)
    return field is default or (factory in _CLEARED and type(field) is factory and not field)


def _show_enum(value: Any, items_max: int, bytes_max: int) -> Any:
    bases = _mro(type(value))
    if str in bases:
        return _show_text(value, items_max, bytes_max)
    return int.__int__(value) if int in bases else value._value_


def _show_dict(value: Any, items_max: int, bytes_max: int) -> _Entries:
    return _Entries(_take(dict.items, value, items_max), dict.__len__(value))


def _show_list(value: Any, items_max: int, bytes_max: int) -> _Items:
    return _Items(list.__getitem__(value, slice(items_max)), list.__len__(value))


def _show_tuple(value: Any, items_max: int, bytes_max: int) -> _Items:
    return _Items(list(tuple.__getitem__(value, slice(items_max))), tuple.__len__(value))


def _show_taken(kind: Any, value: Any, items_max: int, bytes_max: int) -> _Items:
    return _Items(_take(kind.__iter__, value, items_max), kind.__len__(value))


def _take(make_iterator: Callable[[Any], Iterable[Any]], value: Any, items_max: int) -> list[Any]:
    """Copy the first items in one C call; again, if the collector let another thread in."""
    for _ in range(8):
        try:
            return list(islice(make_iterator(value), items_max))
        except RuntimeError:  # changed size during iteration
            continue
    return list(islice(make_iterator(value), items_max))


def _show_proxy(value: Any, items_max: int, bytes_max: int) -> Any:
    (mapping,) = get_referents(value)
    if dict in _mro(type(mapping)):
        return _show_dict(mapping, items_max, bytes_max)
    return _label(type(value))  # any Mapping: asking it would run the user's code


def _show_user_data(value: Any, items_max: int, bytes_max: int) -> Any:
    return object.__getattribute__(value, "__dict__")["data"]


def _show_bytes(kind: Any, value: Any, items_max: int, bytes_max: int) -> Any:
    return _octets(bytes(kind.__getitem__(value, slice(bytes_max))), kind.__len__(value), bytes_max)


def _show_memoryview(value: memoryview, items_max: int, bytes_max: int) -> Any:
    if value.c_contiguous:
        return _octets(bytes(value.cast("B")[:bytes_max]), value.nbytes, bytes_max)
    if value.nbytes <= bytes_max:
        return _octets(value.tobytes(), value.nbytes, bytes_max)
    return f"<memoryview of {value.nbytes} bytes>"


def _octets(head: bytes, total: int, bytes_max: int) -> Any:
    if (total + 2) // 3 * 4 + 2 <= bytes_max:
        return b64encode(head).decode()
    kept = max(0, bytes_max - _MARK_BYTES) // 4 * 3
    return _Cut(b64encode(head[:kept]).decode() + mark(f"{total - kept} bytes cut"))


def _show_raw(value: Any, items_max: int, bytes_max: int) -> Any:
    if len(bytes(value)) > bytes_max:
        return _Cut(_label(type(value)) + mark("too big"))
    return msgspec.json.decode(bytes(value))


def _show_text(value: Any, items_max: int, bytes_max: int) -> str | _Cut:
    # The characters themselves: str() would ask a subclass, whose answer may be anything.
    total = str.__len__(value)
    if total <= bytes_max:
        return str.__getitem__(value, slice(None))
    kept = max(0, bytes_max - _MARK_BYTES) // 6  # what fits if every character is escaped
    return _Cut(str.__getitem__(value, slice(kept)) + mark(f"{total - kept} characters cut"))


def _show_function(value: Any, items_max: int, bytes_max: int) -> str:
    return _bounded(f"<function {value.__module__}.{value.__name__}>")


def _show_exception(value: Any, items_max: int, bytes_max: int) -> str:
    return _bounded(f"{_name(type(value))}: {value}")


def _show_time(value: Any, items_max: int, bytes_max: int) -> str:
    text: str = value.isoformat()
    return text[:-6] + "Z" if text.endswith("+00:00") else text


def _show_timedelta(value: Any, items_max: int, bytes_max: int) -> str:
    return _written(datetime.timedelta(value.days, value.seconds, value.microseconds))


def _written(value: Any) -> str:
    """Return what the encoder makes of a value that it writes as a text."""
    return _encode(value)[1:-1].decode()


def _shown_as(convert: Callable[[Any], object]) -> Callable[[Any, int, int], Any]:
    return lambda value, items_max, bytes_max: convert(value)


def _bounded(text: str) -> str:
    if str.__len__(text) <= REPR_CHARS_MAX:
        return text
    cut = str.__len__(text) - REPR_CHARS_MAX
    return str.__getitem__(text, slice(REPR_CHARS_MAX)) + mark(f"{cut} characters cut")


def _label(kind: type) -> str:
    module = _module(kind)
    return f"<{module}.{_name(kind)}>" if module not in {"builtins", ""} else f"<{_name(kind)}>"


# A metaclass may answer for its class; these ask the class itself.
_mro: Final[Callable[[type], tuple[type, ...]]] = type.__dict__["__mro__"].__get__
_namespace: Final[Callable[[type], Any]] = type.__dict__["__dict__"].__get__
_module_of: Final[Callable[[type], object]] = type.__dict__["__module__"].__get__
_qualname: Final[Callable[[type], str]] = type.__dict__["__qualname__"].__get__


def _name(kind: type) -> str:
    return _qualname(kind)[:_NAME_CHARS_MAX]


def _module(kind: type) -> str:
    module = _module_of(kind)
    return module[:_NAME_CHARS_MAX] if type(module) is str else ""


_SHOWN_OPEN: Final = frozenset({_Items, _Entries})
_FIELD: Final = dataclasses._FIELD  # type: ignore[attr-defined]  # not a ClassVar or InitVar
_CLEARED: Final = (list, dict, set)
_SIZED: Final = frozenset({list, tuple, set, frozenset})
_Handler = Callable[[Any, int, int], Any]
_DICT_VIEWS: Final[tuple[Any, ...]] = (type({}.keys()), type({}.values()), type({}.items()))
_EXACT: Final[dict[type, _Handler]] = {
    datetime.datetime: _shown_as(_written),
    datetime.date: _shown_as(_written),
    datetime.time: _shown_as(_written),
    datetime.timedelta: _shown_as(_written),
    decimal.Decimal: _shown_as(_written),
    bytes: functools.partial(_show_bytes, bytes),
    bytearray: functools.partial(_show_bytes, bytearray),
    memoryview: _show_memoryview,
    msgspec.Raw: _show_raw,
}
_native: Final[dict[type, _Handler]] = {
    list: _show_list,
    dict: _show_dict,
    tuple: _show_tuple,
    msgspec.Struct: _show_struct,
    Enum: _show_enum,
    uuid.UUID: _shown_as(_written),
    set: functools.partial(_show_taken, set),
    frozenset: functools.partial(_show_taken, frozenset),
}
_handlers: Final[dict[type, _Handler]] = {
    str: _show_text,
    int: _shown_as(int.__int__),
    float: _shown_as(float.__float__),
    bytes: functools.partial(_show_bytes, bytes),
    bytearray: functools.partial(_show_bytes, bytearray),
    datetime.datetime: _show_time,
    datetime.date: _show_time,
    datetime.time: _show_time,
    datetime.timedelta: _show_timedelta,
    decimal.Decimal: _shown_as(decimal.Decimal.__str__),
    deque: functools.partial(_show_taken, deque),
    **{view: functools.partial(_show_taken, view) for view in _DICT_VIEWS},
    types.MappingProxyType: _show_proxy,
    UserDict: _show_user_data,
    types.SimpleNamespace: _shown_as(vars),
    BaseException: _show_exception,
    PurePath: _shown_as(str),
    range: _shown_as(repr),
    type: _shown_as(lambda value: f"<class {_label(value)[1:]}"),
    types.ModuleType: _shown_as(lambda value: _bounded(f"<module {value.__name__}>")),
    types.FunctionType: _show_function,
    types.BuiltinFunctionType: _show_function,
    types.MethodType: _shown_as(lambda value: value.__func__),
    functools.partial: _shown_as(lambda value: value.func),
}
