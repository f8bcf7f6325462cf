"""`model/freeze.py` and `model/repair.py`: any value becomes bounded JSON, and is left alone."""

from __future__ import annotations

import asyncio
import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import functools
import json
import math
import pathlib
import re
import sys
import threading
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import hypothesis
import hypothesis.strategies as st
import msgspec
import numpy as np
import pydantic
import pytest
from langchain_core.messages import AIMessage

from everyspan.model import repair as repairing
from everyspan.model.freeze import PAYLOAD_BYTES_MAX, freeze, register
from everyspan.model.repair import DEPTH_MAX, repair

UTC = datetime.UTC


def thawed(value: object, *, bytes_max: int = PAYLOAD_BYTES_MAX) -> Any:
    """Freeze, check F1, and read back."""
    frozen = freeze(value, bytes_max=bytes_max)
    assert type(frozen) is bytes
    assert len(frozen) <= max(bytes_max, 512)
    msgspec.json.decode(frozen)
    return json.loads(frozen)


@pytest.fixture
def registry() -> Iterator[None]:
    before = dict(repairing.registered)
    yield
    repairing.registered.clear()
    repairing.registered.update(before)


@pytest.fixture
def repairs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The values that left the fast path."""
    seen: list[object] = []

    def spy(value: object, *, bytes_max: int) -> bytes:
        seen.append(value)
        return repair(value, bytes_max=bytes_max)

    monkeypatch.setattr("everyspan.model.freeze.repair", spy)
    return seen


# --- what a value of each kind looks like -----------------------------------------------------


class Text(str):
    def __call__(self) -> str:
        return "called"

    def __str__(self) -> str:
        raise RuntimeError


class Whole(int):
    pass


class Real(float):
    pass


class Mapping(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError


class Sequence(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError


class Octets(bytes):
    pass


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)
    LOOSE = pathlib.PurePosixPath("/loose")


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Bits(enum.Flag):
    A = 1
    B = 2


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Data:
    a: Any = 1
    _b: int = 2
    shared: ClassVar[int] = 3


@dataclasses.dataclass(slots=True)
class Slotted:
    a: Any = 1


class Record(msgspec.Struct):
    a: Any = 1
    b: Any = msgspec.UNSET


class Tagged(msgspec.Struct, tag="k", rename="camel", omit_defaults=True):
    first_name: Any = "x"
    last_names: list[Any] = []


class Row(msgspec.Struct, array_like=True, tag=True):
    a: Any = 1


class Model(pydantic.BaseModel):
    name: str = "m"
    when: datetime.date = datetime.date(2020, 1, 2)
    secret: pydantic.SecretStr = pydantic.SecretStr("s")
    hidden: str = pydantic.Field(default="h", exclude=True)
    loose: Any = None


class OddDump(pydantic.BaseModel):
    a: int = 1

    def model_dump(self) -> Any:  # type: ignore[override]
        raise AssertionError("called without arguments")


class Shown:
    def __repr__(self) -> str:
        return "Shown()"


class Plain:
    pass


class Lazy:
    def __repr__(self) -> str:
        raise AssertionError("looked at")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError("asked")


class Iterable:
    def __repr__(self) -> str:
        raise AssertionError("looked at")

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("iterated")


class Awaitable:
    def __await__(self) -> Iterator[Any]:
        raise AssertionError("awaited")


class Exits:
    def __repr__(self) -> str:
        raise SystemExit(3)


def function() -> None: ...


def generator() -> Iterator[int]:
    raise AssertionError("iterated")
    yield


HERE = __name__
RENDERED: list[tuple[object, Any]] = [
    (None, None),
    (True, True),
    (0, 0),
    ("", ""),
    ([], []),
    ({}, {}),
    (1.5, 1.5),
    (math.nan, None),
    (math.inf, None),
    (2**64, 2**64),
    (-(10**30), -(10**30)),
    (10**5_000, "…[everyspan: integer of 16610 bits]"),
    ("a\ud800b", "a�b"),
    ("\ud83d\ude00", "😀"),
    ("\x00é😀", "\x00é😀"),
    ((1, [2]), [1, [2]]),
    (Point(1, 2), [1, 2]),
    ({1}, [1]),
    (frozenset([1]), [1]),
    (collections.deque([1, 2]), [1, 2]),
    (Text("t"), "t"),
    (Whole(3), 3),
    (Real(1.5), 1.5),
    (Mapping(a=1), {"a": 1}),
    (Sequence([1]), [1]),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.defaultdict(int, a=1), {"a": 1}),
    (collections.UserDict(a=1), {"a": 1}),
    (types.MappingProxyType({"a": Shown()}), {"a": "Shown()"}),
    ({"a": 1}.keys(), ["a"]),
    ({"a": 1}.values(), [1]),
    ({"a": 1}.items(), [["a", 1]]),
    (b"hi", "aGk="),
    (bytearray(b"hi"), "aGk="),
    (memoryview(b"hi"), "aGk="),
    (memoryview(b"h.i.")[::2], "aGk="),
    (Octets(b"hi"), "aGk="),
    (Colour.RED, "red"),
    (Colour.PAIR, [1, 2]),
    (Colour.LOOSE, "/loose"),
    (Level.LOW, 1),
    (Word.YES, "yes"),
    (Bits.A | Bits.B, 3),
    (datetime.datetime(2020, 1, 2, 3, 4, 5, 6), "2020-01-02T03:04:05.000006"),
    (datetime.datetime(2020, 1, 2, tzinfo=UTC), "2020-01-02T00:00:00Z"),
    (datetime.date(2020, 1, 2), "2020-01-02"),
    (datetime.time(1, 2, 3), "01:02:03"),
    (datetime.timedelta(days=1, seconds=3), "P1DT3S"),
    (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    (decimal.Decimal("1.50"), "1.50"),
    (pathlib.PurePosixPath("/a/b"), "/a/b"),
    (ValueError("bad"), "ValueError: bad"),
    (range(3), "range(0, 3)"),
    (types.SimpleNamespace(a=[1]), {"a": [1]}),
    (Data(), {"a": 1, "_b": 2}),
    (Data(a=Shown()), {"a": "Shown()", "_b": 2}),
    (Slotted(), {"a": 1}),
    (Record(), {"a": 1}),
    (Record(a=Shown()), {"a": "Shown()"}),
    (Tagged(), {"type": "k"}),
    (Tagged(last_names=[Shown()]), {"type": "k", "lastNames": ["Shown()"]}),
    (Row(a=Shown()), ["Row", "Shown()"]),
    (msgspec.Raw(b"[1]"), [1]),
    (
        Model(loose={"d": uuid.UUID(int=1)}),
        {
            "name": "m",
            "when": "2020-01-02",
            "secret": "**********",
            "loose": {"d": "00000000-0000-0000-0000-000000000001"},
        },
    ),
    (
        Model.model_construct(name=5, loose=Shown()),
        {"name": 5, "when": "2020-01-02", "secret": "**********", "loose": "Shown()"},
    ),
    (OddDump(), {"a": 1}),
    (pydantic.SecretStr("s"), "SecretStr('**********')"),
    (np.float64(1.5), 1.5),
    (np.int64(3), 3),
    (np.bool_(True), True),
    (np.str_("x"), "x"),
    (np.longdouble(1.5), 1.5),
    (np.datetime64("2020-01-02"), "2020-01-02"),
    (np.arange(3), [0, 1, 2]),
    (np.array([[1.5], [math.nan]]), [[1.5], [None]]),
    (np.array([Shown()], dtype=object), ["Shown()"]),
    (np.zeros((100, 100)), "<numpy.ndarray shape=(100, 100) dtype=float64>"),
    (function, f"<function {HERE}.function>"),
    (len, "<function builtins.len>"),
    (Shown().__repr__, f"<function {HERE}.__repr__>"),
    (functools.partial(len, []), "<function builtins.len>"),
    (int, "<class int>"),
    (Shown, f"<class {HERE}.Shown>"),
    (re, "<module re>"),
    (Shown(), "Shown()"),
    (Plain(), f"<{HERE}.Plain>"),
    (Lazy(), f"<{HERE}.Lazy>"),
    (Iterable(), f"<{HERE}.Iterable>"),
    (Awaitable(), f"<{HERE}.Awaitable>"),
    (generator(), "<generator>"),
    (iter([1]), "<list_iterator>"),
    (Exits(), f"<{HERE}.Exits>…[everyspan: SystemExit]"),
    (..., "Ellipsis"),
    (1j, "1j"),
    ({1: 2}, {"1": 2}),
    ({1.5: 2, math.nan: 3}, {"1.5": 2, "nan": 3}),
    ({None: 1, True: 2}, {"null": 1, "true": 2}),
    ({uuid.UUID(int=5): 1}, {"00000000-0000-0000-0000-000000000005": 1}),
    ({Colour.RED: 1, Level.LOW: 2}, {"red": 1, "1": 2}),
    ({Text("k"): 1}, {"k": 1}),
    ({(1, "a"): 1}, {'[1,"a"]': 1}),
    ({datetime.date(2020, 1, 2): 1}, {"2020-01-02": 1}),
    ({b"k": 1}, {"aw==": 1}),
    ({10**20: 1}, {str(10**20): 1}),
    ({"a\ud800": 1}, {"a\ufffd": 1}),
    ({Exits: 1}, {f"<class {HERE}.Exits>": 1}),
    ({frozenset([1]): 1}, {"<frozenset>": 1}),
    ({10**5_000: 1}, {"…[everyspan: integer of 16610 bits]": 1}),
]


@pytest.mark.parametrize(("value", "shown"), RENDERED, ids=lambda value: type(value).__name__)
def test_a_value_of_each_kind_has_one_rendering(value: object, shown: object) -> None:
    """F1, `trace:T4`: alone, in a list beside anything, and as a dict's value."""
    assert thawed(value) == shown
    assert thawed([Plain(), value]) == [f"<{HERE}.Plain>", shown]
    assert thawed({"k": value}) == {"k": shown}


@pytest.mark.parametrize("value", [value for value, _ in RENDERED], ids=lambda v: type(v).__name__)
def test_what_the_fast_path_writes_the_repair_writes_too(
    value: object, repairs: list[object]
) -> None:
    """R4, to the byte."""
    frozen = freeze([value])
    if not repairs and type(value) is not msgspec.Raw:
        assert frozen == repair([value], bytes_max=PAYLOAD_BYTES_MAX)


def test_a_langchain_message_shows_its_fields() -> None:
    """`trace:D22`: its text, a callable subclass of str, is text."""
    message = AIMessage("hello", id="m1")
    assert thawed([message])[0]["content"] == "hello"
    assert thawed({"text": message.text}) == {"text": "hello"}


def test_agents_payloads_stay_on_the_fast_path(repairs: list[object]) -> None:
    """F3; fails if the encoder ever stops taking a buffer that cannot grow."""
    message = {"role": "user", "content": "hi", "n": 1, "score": 0.5, "ok": True, "none": None}
    native = {"d": Data(), "u": uuid.uuid4(), "t": datetime.datetime.now(UTC)}
    values: list[object] = ["text", {"messages": [message] * 8}, [], (1, 2), native]
    for value in values:
        freeze(value)
    freeze({"text": "x" * 200_000})
    assert repairs == []
    freeze({"text": "x" * 300_000})
    freeze({"q": "hi"})
    assert len(repairs) == 1


def test_a_frozen_payload_takes_no_more_memory_than_it_is_long() -> None:
    """F2: its length is the measure of memory, so no slack may hang on it."""
    assert sys.getsizeof(freeze({"q": "hi"})) == sys.getsizeof(b'{"q":"hi"}')


# --- bounds -----------------------------------------------------------------------------------

MARK = "…[everyspan: "


def test_a_long_text_is_cut_and_says_by_how_much() -> None:
    """R2"""
    shown = thawed("x" * 10_000, bytes_max=1_000)
    kept, _, cut = shown.partition(MARK)
    assert cut == f"{10_000 - len(kept)} characters cut]"
    assert 850 < len(kept) < 1_000


@pytest.mark.parametrize(
    "text", ["é", "漢", "😀", "\x01", '"', "\ud800", "a\x01" * 50 + "漢" * 400]
)
def test_a_text_of_any_characters_fills_its_room(text: str) -> None:
    """R1, R2: escapes and multi-byte characters are counted as written."""
    frozen = freeze(text * 3_000, bytes_max=2_000)
    assert len(frozen) > 1_700
    assert thawed(text * 3_000, bytes_max=2_000)[-1] == "]"


def test_a_huge_text_does_not_cost_the_small_ones_around_it() -> None:
    """R2"""
    messages = [{"role": "user", "content": "A" * 3_000_000}, {"role": "user", "content": "why?"}]
    shown = thawed({"messages": messages, "model": "m"})
    assert shown["model"] == "m"
    assert shown["messages"][1] == messages[1]
    assert MARK in shown["messages"][0]["content"]


def test_cut_items_are_counted_at_the_end_of_their_container() -> None:
    """R2"""
    array = thawed([Shown()] * 5_000)
    assert array[-1] == f"{MARK}{5_000 - len(array) + 1} items cut]"
    entries = thawed({f"k{i}": Shown() for i in range(5_000)})
    assert entries["…[everyspan]"] == f"{MARK}{5_000 - len(entries) + 1} items cut]"


def test_bytes_are_cut_too() -> None:
    """R2"""
    shown = thawed([b"x" * 9_000, 1], bytes_max=1_000)
    assert shown[0].endswith(" bytes cut]")
    assert shown[1] == 1


def test_nesting_ends_at_a_mark() -> None:
    """R2; what the encoder cannot nest the repair does not either."""
    value: Any = []
    for _ in range(100_000):
        value = [value]
    depth, shown = 0, thawed(value)
    while type(shown) is list:
        depth, shown = depth + 1, shown[0]
    assert (depth, shown) == (DEPTH_MAX, f"{MARK}too deep]")


def test_a_cycle_is_marked_where_it_closes() -> None:
    """R2; a value that merely appears twice is shown twice."""
    loop: dict[str, Any] = {"twice": [[1]] * 2}
    loop["self"] = {"list": [loop]}
    assert thawed(loop) == {"twice": [[1], [1]], "self": {"list": [f"{MARK}cycle]"]}}
    data = Data()
    data.a = data
    assert thawed(data) == {"a": f"{MARK}cycle]", "_b": 2}


def test_a_graph_of_everything_ends() -> None:
    """R1: shared values are not a way around the bounds."""
    nodes: list[dict[str, Any]] = [{} for _ in range(60)]
    for node in nodes:
        node.update({str(i): other for i, other in enumerate(nodes)})
    thawed(nodes)
    bomb: Any = "x"
    for _ in range(40):
        bomb = [bomb, bomb]
    thawed(bomb)


def test_reading_stops_where_the_budget_ends() -> None:
    """R2: of ten million values only the first are touched."""
    touched = 0

    class Counted:
        def __repr__(self) -> str:
            nonlocal touched
            touched += 1
            return "Counted()"

    thawed([Counted()] * 10_000_000)
    assert 0 < touched <= 2 * repairing.NODES_MAX


def test_a_long_repr_is_cut() -> None:
    """R2"""

    class Long:
        def __repr__(self) -> str:
            return "x" * 1_000_000

    assert len(thawed(Long())) < 3_000


def test_a_models_huge_field_is_not_dumped() -> None:
    """R2: pydantic would copy ten million items before any bound could hold."""
    shown = thawed(Model(loose=[0] * 1_000_000))
    assert shown["name"] == "m"
    assert shown["loose"] == f"{MARK}too big to dump]"


# --- values that misbehave --------------------------------------------------------------------


def raising(error: Callable[[], BaseException]) -> type:
    """A class of which every special method raises."""

    def method(self: object, *args: object, **kwargs: object) -> Any:
        raise error()

    names = "repr str len bool eq hash bytes format dir int float index sizeof fspath reduce_ex"
    namespace: dict[str, Any] = {f"__{name}__": method for name in names.split()}
    namespace["__class__"] = property(method)
    namespace["__dict__"] = property(method)
    return type("Raising", (), namespace)


@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, MemoryError, RecursionError, GeneratorExit, StopIteration]
)
def test_what_a_value_raises_becomes_a_mark(error: Callable[[], BaseException]) -> None:
    """R3, F1"""
    value = raising(error)()
    assert thawed(["before", value, "after"])[1] == f"<{HERE}.Raising>{MARK}{error.__name__}]"


def test_cancellation_raised_by_a_value_is_marked() -> None:
    """R3"""
    assert thawed(raising(asyncio.CancelledError)()).endswith("CancelledError]")


def test_ctrl_c_passes() -> None:
    """F1 speaks of the value; the user's interrupt is not its answer."""
    with pytest.raises(KeyboardInterrupt):
        freeze([raising(KeyboardInterrupt)()])


def test_a_value_that_lies_about_its_class_is_not_believed() -> None:
    """R3"""

    class Liar:
        __class__ = str  # type: ignore[assignment]

        def __repr__(self) -> str:
            return "Liar()"

    assert thawed(Liar()) == "Liar()"


def test_a_metaclass_that_answers_for_its_class_is_not_asked() -> None:
    """R3"""

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            raise AssertionError(name)

    value = Meta("Strange", (), {})()
    assert thawed(value).endswith("Strange>")


def test_no_stack_left_is_not_the_agents_problem() -> None:
    """F1"""

    def descend() -> bytes:
        try:
            return descend()
        except RecursionError:
            return freeze([Shown(), Exits()])

    assert json.loads(descend())


def test_an_object_changed_by_its_own_repr_is_survived() -> None:
    """R3: the encoder, called back inside a list that shrinks, would crash the process."""
    victims: list[Any] = []

    class Evil:
        def __repr__(self) -> str:
            victims.clear()
            entries.clear()
            return "Evil()"

    victims.extend([Evil(), *("x" * i for i in range(100))])
    entries: dict[str, Any] = {"a": Evil(), "b": 1}
    assert thawed([victims, entries])[0][0] == "Evil()"


def test_containers_may_change_in_another_thread() -> None:
    """R3"""
    table: dict[int, Any] = {0: Shown()}
    items: list[Any] = [Shown()]
    group: set[int] = {1}
    done = threading.Event()

    def churn() -> None:
        i = 0
        while not done.is_set():
            i += 1
            table[i] = i
            items.append({})
            group.add(i)
            if i % 200 == 0:
                table.clear()
                items.clear()
                group.clear()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(500):
            read = thawed({"table": table, "items": items, "group": group, "odd": Plain()})
            assert all(MARK + "Run" not in str(part) for part in read.values())
    finally:
        done.set()
        thread.join()


def test_freezing_inside_freezing() -> None:
    """F2: a finalizer, or a descriptor that the encoder reads, may freeze as well."""

    class Nested:
        def __get__(self, instance: object, owner: type) -> Any:
            return freeze({"inner": [1, 2]}).decode()

        def __set__(self, instance: object, value: object) -> None: ...

    @dataclasses.dataclass
    class Outer:
        a: Any = Nested()  # noqa: RUF009

    inner = '{"inner":[1,2]}'
    assert thawed([Outer(), "x" * 50]) == [{"a": inner}, "x" * 50]


def test_threads_do_not_share_buffers() -> None:
    """F2"""
    failures: list[object] = []

    def work(letter: str) -> None:
        for n in range(3_000):
            value = {"v": letter * (n % 97)}
            if freeze(value) != msgspec.json.encode(value):
                failures.append(value)

    threads = [threading.Thread(target=work, args=(letter,)) for letter in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# --- register ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("registry")
def test_a_registered_type_shows_what_its_author_says() -> None:
    """Also where the encoder would have known it, and for subclasses."""
    register(Data, lambda data: {"only": data.a})
    register(Plain, lambda plain: Shown())
    assert thawed([Data(a=2), Plain()]) == [{"only": 2}, "Shown()"]

    class Child(Data):
        pass

    assert thawed(Child()) == {"only": 1}


@pytest.mark.usefixtures("registry")
def test_a_registered_function_that_fails_or_answers_itself_is_marked() -> None:
    """R3"""
    register(Plain, lambda plain: plain)
    register(Shown, lambda shown: 1 // 0)
    assert thawed([Plain(), Shown()]) == [
        f"{MARK}shown as itself]",
        f"<{HERE}.Shown>{MARK}ZeroDivisionError]",
    ]


@pytest.mark.parametrize(
    ("type_", "fn", "message"),
    [(1, repr, "class"), (str, repr, "builtin JSON type, got str"), (Data, 1, "callable")],
)
def test_register_refuses_what_cannot_work(type_: Any, fn: Any, message: str) -> None:
    """The argument, its value and what is allowed are named."""
    with pytest.raises(TypeError, match=message):
        register(type_, fn)


# --- anything ---------------------------------------------------------------------------------

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
)
plain = st.recursive(
    atoms,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=40,
)
text = st.text(st.characters(categories=["L", "Cs", "Cc", "S"]), max_size=60)
keys = text | st.integers() | st.floats() | st.tuples(st.integers()) | st.binary(max_size=4)

# hypothesis looks at what it draws, which these values do not survive: it draws recipes.
Recipe = Callable[[], object]


def always(value: object) -> Recipe:
    return lambda: value


def applied(make: Callable[[Any], object]) -> Callable[[Recipe], Recipe]:
    return lambda inner: lambda: make(inner())


leaves: st.SearchStrategy[Recipe] = (
    (atoms | st.floats() | text | st.binary(max_size=60) | st.datetimes() | st.uuids()).map(always)
    | st.integers(0, len(RENDERED) - 1).map(lambda i: lambda: RENDERED[i][0])
    | st.sampled_from([ValueError, SystemExit, MemoryError]).map(lambda e: lambda: raising(e)())
)
SHELLS: list[Callable[[Any], object]] = [
    Data,
    Record,
    Row,
    lambda value: Model.model_construct(loose=value),
    lambda value: (value, value),
    lambda value: collections.deque([value]),
    lambda value: types.SimpleNamespace(value=value),
    lambda value: types.MappingProxyType({"k": value}),
    lambda value: Sequence([value]),
]
anything: st.SearchStrategy[Recipe] = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner).map(lambda items: lambda: [item() for item in items])
        | st.dictionaries(keys, inner).map(lambda d: lambda: {k: v() for k, v in d.items()})
        | st.builds(lambda shell, item: applied(shell)(item), st.sampled_from(SHELLS), inner)
    ),
    max_leaves=30,
)


@hypothesis.given(plain)
def test_plain_values_read_back_equal_on_either_path(value: Any) -> None:
    """F3, R4, F2"""
    before = copy.deepcopy(value)
    assert json.loads(freeze(value)) == value
    assert freeze(value) == repair(value, bytes_max=PAYLOAD_BYTES_MAX)
    assert value == before


@hypothesis.given(plain)
def test_a_node_looks_the_same_beside_something_odd(value: Any) -> None:
    """R4"""
    assert thawed([value, Plain(), {"k": value}]) == [value, f"<{HERE}.Plain>", {"k": value}]


def valid(frozen: bytes, bytes_max: int) -> Any:
    assert len(frozen) <= bytes_max
    msgspec.json.decode(frozen)
    return json.loads(frozen.decode())


@hypothesis.given(anything)
def test_anything_at_all_becomes_valid_json(recipe: Recipe) -> None:
    """F1"""
    valid(freeze(recipe()), PAYLOAD_BYTES_MAX)


@hypothesis.given(anything, st.integers(512, 3_000))
def test_anything_at_all_fits_its_bound(recipe: Recipe, bytes_max: int) -> None:
    """F1, R1"""
    value = recipe()
    valid(freeze([value] * 5, bytes_max=bytes_max), bytes_max)
    valid(repair([value] * 5, bytes_max=bytes_max), bytes_max)


@hypothesis.given(st.lists(plain, max_size=5), st.integers(512, 700))
def test_plain_values_fit_their_bound(value: Any, bytes_max: int) -> None:
    """F1, R1"""
    valid(freeze({"a": value, "b": [value] * 9}, bytes_max=bytes_max), bytes_max)


@pytest.mark.parametrize("bytes_max", [-1, 0, 1, 511])
def test_a_bound_too_small_for_marks_is_raised(bytes_max: int) -> None:
    """F1"""
    valid(freeze(["x" * 600, Plain()], bytes_max=bytes_max), 512)
