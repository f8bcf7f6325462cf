"""Settings: argument, environment, default, and what each does with nonsense."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest

import everyspan
from everyspan import config, log
from everyspan.config import (
    ARGUMENT,
    CHOICES,
    DEFAULT,
    SETTINGS,
    VARIABLES,
    Choice,
    Setting,
    Switch,
    load_environment,
    load_settings,
    resolve_environment,
    resolve_settings,
)
from everyspan.errors import SettingsError

SGP_CONFIG = everyspan.SGPTracingProcessorConfig("hidden", "account", "http://127.0.0.1:9")

GARBAGE = ("x", "nan", "inf", "1e999", "0x10", "ten", "1,5", "--1")


@pytest.fixture(autouse=True)
def _forget_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_warned", set())


@pytest.fixture
def nowhere() -> Iterator[None]:
    yield
    everyspan.set_tracing_processor_configs([])


def argument(row: Setting, value: Any) -> Any:
    """The keyword arguments that set one row."""
    return {row.name: value}


def rows(values: Sequence[Setting]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", values, ids=lambda row: row.name)


def source_of(row: Setting, environ: dict[str, str] | None = None, **arguments: Any) -> str:
    (found,) = [found for found in resolve_settings(environ or {}, **arguments) if found.row is row]
    return found.source


@rows(SETTINGS)
def test_an_argument_beats_the_environment_which_beats_the_default(row: Setting) -> None:
    """trace:V1, Q23."""
    low, high = (0.25, 0.5) if row.maximum else (row.minimum + 7, row.minimum + 9)
    assert getattr(load_settings({}), row.name) == row.default
    assert getattr(load_settings({row.env: f" {low} "}), row.name) == low
    assert getattr(load_settings({row.env: f"{low}"}, **argument(row, high)), row.name) == high
    assert source_of(row) == DEFAULT
    assert source_of(row, {row.env: f" {low} "}) == row.env
    assert source_of(row, {row.env: f"{low}"}, **argument(row, high)) == ARGUMENT
    assert source_of(row, {row.env: "garbage"}) == DEFAULT


@rows(SETTINGS)
def test_a_number_below_the_minimum_is_raised_to_it(row: Setting) -> None:
    """trace:V2."""
    below = row.minimum - 1
    assert getattr(load_settings({}, **argument(row, below)), row.name) == row.minimum
    assert getattr(load_settings({row.env: f"{below}"}), row.name) == row.minimum


@rows(SETTINGS)
@pytest.mark.parametrize(
    "garbage",
    [*GARBAGE, "1", True, [], float("nan"), float("-inf"), pytest.param(10**310, id="huge")],
)
def test_a_bad_argument_raises_and_is_named(row: Setting, garbage: Any) -> None:
    """trace:V3."""
    with pytest.raises(SettingsError) as caught:
        load_settings({}, **argument(row, garbage))
    text = str(caught.value)
    assert text.startswith(f"{row.name} must be a ")
    assert text.endswith(f"got {garbage!r}")
    bounds = f"from {row.minimum} to {row.maximum}" if row.maximum else f"at least {row.minimum}"
    assert f"{bounds}, got" in text


@rows(SETTINGS)
def test_a_bad_environment_value_warns_once_in_the_same_words(
    row: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    """trace:V3."""
    for garbage in GARBAGE:
        caplog.clear()
        for _ in range(3):
            assert getattr(load_settings({row.env: garbage}), row.name) == row.default
        with pytest.raises(SettingsError) as caught:
            load_settings({}, **argument(row, garbage))
        words = str(caught.value).replace(row.name, row.env, 1)
        assert [record.message for record in caplog.records] == [f"{words}; using {row.default}"]
        assert caplog.records[0].levelno == logging.WARNING


@rows([row for row in SETTINGS if row.whole])
def test_a_whole_number_is_not_cut(row: Setting) -> None:
    with pytest.raises(SettingsError, match=f"{row.name} must be a whole number"):
        load_settings({}, **argument(row, row.minimum + 0.5))
    value = getattr(load_settings({}, **argument(row, row.minimum + 2.0)), row.name)
    assert (value, type(value)) == (row.minimum + 2, int)


@rows(SETTINGS)
@pytest.mark.parametrize("empty", ["", "  "])
def test_empty_text_counts_as_unset(row: Setting, empty: str) -> None:
    """trace:D21."""
    assert getattr(load_settings({row.env: empty}), row.name) == row.default


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(SettingsError, match="unknown setting 'lingr_ms'; known: linger_ms, "):
        load_settings({}, lingr_ms=5)  # type: ignore[call-arg]


def test_a_share_above_the_whole_is_a_mistake_not_all_of_it() -> None:
    """`sample=10` for ten percent must not record everything."""
    with pytest.raises(SettingsError, match=r"sample must be a number from 0 to 1, got 10"):
        load_settings({}, sample=10)
    assert load_settings({"EVERYSPAN_SAMPLE": "10"}).sample is None


@rows(SETTINGS)
def test_every_setting_says_what_it_is(row: Setting) -> None:
    assert row.help
    assert row.unit
    assert row.env.startswith(("AGENTEX_", "EVERYSPAN_"))


def test_settings_are_the_environment_variables_of_the_original() -> None:
    """trace §2."""
    assert {row.env for row in SETTINGS if row.env.startswith("AGENTEX_")} == {
        f"AGENTEX_SPAN_QUEUE_{name}"
        for name in ("LINGER_MS", "BATCH_SIZE", "MAX_SIZE", "MAX_RETRIES", "CONCURRENCY")
    }


# -- switches


@pytest.mark.parametrize(
    ("environ", "disabled"),
    [
        ({}, False),
        ({"EVERYSPAN_DISABLED": "1"}, True),
        ({"EVERYSPAN_DISABLED": " Yes "}, True),
        ({"EVERYSPAN_DISABLED": "0"}, False),
        ({"EVERYSPAN_DISABLED": ""}, False),
        ({"DISABLE_SCALE_TRACING": ""}, True),
        ({"DISABLE_SCALE_TRACING": "0"}, True),
        ({"OTEL_SDK_DISABLED": "TRUE"}, True),
        ({"OTEL_SDK_DISABLED": "1"}, False),
    ],
)
def test_what_switches_recording_off(environ: dict[str, str], disabled: bool) -> None:
    """trace §2: DISABLE_SCALE_TRACING counts if it is set at all."""
    assert load_environment(environ).disabled is disabled


@pytest.mark.parametrize(
    ("text", "skip"),
    [
        (None, True),
        ("", True),
        *((text, False) for text in ("0", "FALSE", "Off", " no ")),
        *((text, True) for text in ("1", "true", "yes", "on", "anything")),
    ],
)
def test_what_brings_starts_back(text: str | None, skip: bool) -> None:
    """trace:S6."""
    environ = {} if text is None else {"AGENTEX_TRACING_SKIP_SPAN_START": text}
    assert load_environment(environ).skip_span_start is skip


@pytest.mark.parametrize(("text", "metrics"), [(None, True), (" OFF ", False), ("maybe", True)])
def test_the_switch_of_the_originals_metrics(text: str | None, metrics: bool) -> None:
    """trace §2."""
    environ = {} if text is None else {"AGENTEX_TRACING_METRICS": text}
    assert load_environment(environ).metrics is metrics


@pytest.mark.parametrize(
    ("name", "text", "known"),
    [
        ("EVERYSPAN_DISABLED", "maybe", "1, true, yes, on, 0, false, no, off"),
        ("OTEL_SDK_DISABLED", "1", "true, false"),
    ],
)
def test_a_switch_that_is_no_yes_or_no_warns_once_and_stays_off(
    name: str, text: str, known: str, caplog: pytest.LogCaptureFixture
) -> None:
    """trace:V3, for switches."""
    for _ in range(3):
        assert load_environment({name: text}).disabled is False
    assert [record.message for record in caplog.records] == [
        f"{name} must be one of {known}, got {text!r}; using off"
    ]


@pytest.mark.parametrize("name", ["AGENTEX_TRACING_SKIP_SPAN_START", "AGENTEX_TRACING_METRICS"])
def test_a_switch_of_the_original_takes_any_other_text_as_on(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """trace:S6: without a warning."""
    (found,) = [found for found in resolve_environment({name: "maybe"}) if found.row.env == name]
    assert (found.value, found.source, found.complaint) == (True, name, None)
    load_environment({name: "maybe"})
    assert caplog.records == []


@pytest.mark.parametrize("text", ["ключ", "a\nb", "a\x1bb"])
@pytest.mark.parametrize(
    "name", ["SGP_API_KEY", "SGP_ACCOUNT_ID", "AGENTEX_SDK_API_KEY", "AGENT_API_KEY"]
)
def test_a_key_that_no_header_can_carry_is_ignored_and_not_shown(name: str, text: str) -> None:
    """trace:V3, P9."""
    (found,) = [found for found in resolve_environment({name: text}) if found.row.env == name]
    assert (found.value, found.source) == (None, DEFAULT)
    assert found.complaint is not None
    assert found.complaint.startswith(f"{name} must be printable ASCII")
    assert text not in found.complaint


def test_credentials_that_no_header_can_carry_stop_no_agent(
    monkeypatch: pytest.MonkeyPatch, nowhere: None
) -> None:
    """P2: a bad environment never raises from `configure`."""
    monkeypatch.setenv("SGP_API_KEY", "ключ")
    monkeypatch.setenv("SGP_ACCOUNT_ID", "account")
    everyspan.configure()


def test_of_several_switches_one_is_enough() -> None:
    environ = {"DISABLE_SCALE_TRACING": "1", "OTEL_SDK_DISABLED": "false"}
    assert load_environment(environ).disabled is True


@pytest.mark.parametrize("row", VARIABLES, ids=lambda row: row.env)
def test_every_variable_tells_where_it_came_from(row: Any) -> None:
    plain = "http://host" if getattr(row, "is_address", False) else "some text"
    text = (row.on or row.off or ("",))[0] if isinstance(row, Switch) else f" {plain} "
    for environ, source in (({}, DEFAULT), ({row.env: text}, row.env)):
        (found,) = [found for found in resolve_environment(environ) if found.row is row]
        assert found.source == source
        assert found.complaint is None
        if not isinstance(row, Switch):
            assert found.value == (plain if environ else None)


def test_switched_off_nothing_is_recorded(
    monkeypatch: pytest.MonkeyPatch, nowhere: None, caplog: pytest.LogCaptureFixture
) -> None:
    """And the log says why."""
    caplog.set_level(logging.INFO, "everyspan")
    monkeypatch.setenv("EVERYSPAN_DISABLED", "true")
    memory = everyspan.InMemoryTracingProcessor()
    everyspan.configure(memory)
    with everyspan.span("x"):
        pass
    assert everyspan.flush(5)
    assert memory.spans == []
    assert [line.message for line in caplog.records] == [
        "spans go nowhere: the environment switches recording off"
    ]


# -- configure


def test_configure_refuses_a_bad_setting_and_keeps_what_was(nowhere: None) -> None:
    memory = everyspan.InMemoryTracingProcessor()
    everyspan.configure(memory, linger_ms=0)
    with pytest.raises(SettingsError, match="linger_ms must be a number of at least 0, got 'x'"):
        everyspan.configure(linger_ms="x")  # type: ignore[arg-type]
    with everyspan.span("still recorded"):
        pass
    assert everyspan.flush(5)
    assert [span.name for span in memory.spans] == ["still recorded"]


@pytest.mark.parametrize(
    ("destination", "hint"),
    [
        (5, "5"),
        (object(), ">"),
        ([SGP_CONFIG], "an argument of its own: configure(first, second)"),
        (everyspan.InMemoryTracingProcessor, "make one of it: InMemoryTracingProcessor(...)"),
        (everyspan.SGPTracingProcessorConfig, "make one of it: SGPTracingProcessorConfig(...)"),
    ],
)
def test_configure_refuses_what_is_no_destination(
    destination: Any, hint: str, nowhere: None
) -> None:
    with pytest.raises(SettingsError, match="a destination must") as caught:
        everyspan.configure(destination)
    assert str(caught.value).endswith(hint)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "missing"), [({}, "sgp_api_key"), ({"sgp_api_key": "k"}, "sgp_account_id")]
)
def test_half_a_configuration_says_what_is_missing(arguments: dict[str, Any], missing: str) -> None:
    with pytest.raises(SettingsError, match=f"^{missing} is missing: SGPTracingProcessorConfig"):
        everyspan.SGPTracingProcessorConfig(**arguments)


def test_a_configuration_of_an_unknown_type_is_refused(nowhere: None) -> None:
    """trace:G1: by whichever call, with the types there are."""

    class Unknown(everyspan.TracingProcessorConfig):
        type = "zipkin"

    calls: list[Callable[[Any], None]] = [
        everyspan.configure,
        everyspan.add_tracing_processor_config,
        lambda config: everyspan.set_tracing_processor_configs([config]),
    ]
    for call in calls:
        with pytest.raises(SettingsError, match=r"known types: agentex, console, file, otlp, sgp"):
            call(Unknown())


@pytest.mark.parametrize("kind", ["sgp", "agentex"])
def test_a_configuration_of_a_known_type_is_that_destination(kind: str, nowhere: None) -> None:
    """trace:G1."""
    config = everyspan.AgentexTracingProcessorConfig()
    everyspan.configure(config if kind == "agentex" else SGP_CONFIG)
    assert [destination.name for destination in everyspan.stats().destinations] == [kind]


@pytest.mark.parametrize("registers_by", ["configure", "add", "set"])
def test_the_same_configuration_twice_warns_and_exports_twice(
    registers_by: str, nowhere: None, caplog: pytest.LogCaptureFixture
) -> None:
    """trace:G2: the warning comes once and shows no key; two accounts are no repeat."""
    log.forget()
    other = everyspan.SGPTracingProcessorConfig("hidden", "other", "http://127.0.0.1:9")
    if registers_by == "add":
        everyspan.set_tracing_processor_configs([])
        for config in (SGP_CONFIG, other, SGP_CONFIG):
            everyspan.add_tracing_processor_config(config)
    elif registers_by == "set":
        everyspan.set_tracing_processor_configs([SGP_CONFIG, other, SGP_CONFIG])
    else:
        everyspan.configure(SGP_CONFIG, other, SGP_CONFIG)
    assert len(everyspan.stats().destinations) == 3
    (said,) = [text for text in caplog.messages if "more than once" in text]
    assert "'account'" in said
    assert "hidden" not in said


def test_configure_has_no_other_settings() -> None:
    with pytest.raises(SettingsError, match="lingr_ms"):
        everyspan.configure(lingr_ms=5)  # type: ignore[call-arg]


@pytest.mark.parametrize("call", [everyspan.flush, everyspan.shutdown])
@pytest.mark.parametrize("timeout", ["x", -1, float("nan"), None, True])
def test_a_bad_timeout_is_named(call: Any, timeout: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        call(timeout)
    assert (
        str(caught.value) == f"timeout must be a number of seconds of at least 0, got {timeout!r}"
    )


@pytest.mark.parametrize("row", CHOICES, ids=lambda row: row.name)
def test_a_word_is_one_of_those_that_are_known(
    row: Choice, caplog: pytest.LogCaptureFixture
) -> None:
    """trace:V1, V3: argument, environment, default; nonsense raises, or warns once."""
    word = row.words[-1]
    assert getattr(load_settings({}), row.name) == row.default != word
    assert getattr(load_settings({row.env: f" {word.upper()} "}), row.name) == word
    chosen: Any = {row.name: row.default}
    assert getattr(load_settings({row.env: word}, **chosen), row.name) == row.default
    for _ in range(2):
        assert getattr(load_settings({row.env: "garbage"}), row.name) == row.default
    (line,) = caplog.messages
    assert line.startswith(f"{row.env} must be {row.words[0]} or ")
    for bad in [{row.name: garbage} for garbage in ("garbage", "", 1)]:
        with pytest.raises(SettingsError, match=f"^{row.name} must be {row.words[0]} or "):
            load_settings({}, **cast("Any", bad))


def test_a_bad_environment_does_not_stop_configure(
    monkeypatch: pytest.MonkeyPatch, nowhere: None, caplog: pytest.LogCaptureFixture
) -> None:
    for row in SETTINGS:
        monkeypatch.setenv(row.env, "garbage")
    memory = everyspan.InMemoryTracingProcessor()
    everyspan.configure(memory)
    everyspan.configure(memory)
    with everyspan.span("x"):
        pass
    assert everyspan.flush(5)
    assert [span.name for span in memory.spans] == ["x"]
    assert len(caplog.records) == len(SETTINGS)


BAD_ADDRESSES = {
    "": "must start with http:// or https://",
    "nonsense": "must start with http:// or https://",
    "ftp://host": "must start with http:// or https://",
    "localhost:5003": "must start with http:// or https://",
    "http://": "must name a host",
    "http://:5003": "must name a host",
    "http://host:99999": "must have a host and a port from 1 to 65535",
    "http://host:abc": "must have a host and a port from 1 to 65535",
    "http://host:0": "must have a port from 1 to 65535",
    "http://[::1": "must have a host and a port from 1 to 65535",
    "http://ho st": "must be ASCII without spaces",
    "http://host\n": "must be ASCII without spaces",
    "http://höst": "must be ASCII without spaces",
    "http://host/?a=b": "must end with its path, without ? and #",
}


@pytest.mark.parametrize(("address", "wrong"), BAD_ADDRESSES.items())
def test_a_bad_address_raises_from_an_argument_and_is_named(
    address: str, wrong: str, nowhere: None
) -> None:
    """P2: else every span would be lost later, for a reason that names no fix."""
    with pytest.raises(SettingsError, match="a destination that is text") as caught:
        everyspan.configure(address)
    assert wrong in str(caught.value)
    if address:
        with pytest.raises(SettingsError, match=f"sgp_base_url {wrong.split()[0]}"):
            everyspan.SGPTracingProcessorConfig("key", "account", address)


@pytest.mark.parametrize("env", ["EVERYSPAN_ENDPOINT", "SGP_CLIENT_BASE_URL"])
@pytest.mark.parametrize("address", [address for address in BAD_ADDRESSES if address.strip()])
def test_a_bad_address_in_the_environment_warns_once_and_falls_back(
    env: str, address: str, monkeypatch: pytest.MonkeyPatch, nowhere: None, caplog: Any
) -> None:
    """trace:V3."""
    if address == address.strip():
        monkeypatch.setenv(env, address)
        for _ in range(2):
            everyspan.configure(everyspan.SGPTracingProcessorConfig("key", "account"))
            everyspan.configure()
        assert [record.message.split(" must ")[0] for record in caplog.records] == [env]
        assert caplog.records[0].message.endswith("; using the default")


def test_a_password_in_an_address_is_refused_unshown(nowhere: None) -> None:
    """P9: addresses end up in logs."""
    with pytest.raises(SettingsError, match="must not hold a user or password") as caught:
        everyspan.configure("https://user:s3cret@host")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"SGP_API_KEY": "k"}, "spans go to http://127.0.0.1:5003: of SGP_API_KEY and"),
        ({"SGP_ACCOUNT_ID": "a"}, "spans go to http://127.0.0.1:5003: of SGP_API_KEY and"),
    ],
)
def test_half_a_credential_is_told(
    environ: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    nowhere: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """P2: the spans go elsewhere than was meant."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    everyspan.configure()
    assert [record.message[: len(said)] for record in caplog.records] == [said]


@pytest.mark.parametrize(
    ("key", "account", "missing"), [("", "a", "sgp_api_key"), ("k", "", "sgp_account_id")]
)
def test_a_destination_that_is_off_says_so_once(
    key: str, account: str, missing: str, nowhere: None, caplog: pytest.LogCaptureFixture
) -> None:
    """trace:S5."""
    for _ in range(3):
        everyspan.configure(everyspan.SGPTracingProcessorConfig(key, account))
    assert [record.message for record in caplog.records] == [
        f"sgp gets no spans: {missing} is empty"
    ]
