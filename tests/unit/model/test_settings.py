from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.options import OPTIONS
from pytest_xhyve.model.settings import EMULATION_FACTOR, PARSERS, Settings
from pytest_xhyve.model.values import format_size, parse_positive_float, parse_positive_int, parse_size


class Given:
    """A source of settings, as `pytest.Config` is one."""

    def __init__(self, typed: dict[str, Any] | None = None, written: dict[str, Any] | None = None) -> None:
        self._typed = typed or {}
        self._written = written or {}

    def getoption(self, name: str) -> Any:
        return self._typed.get(name)

    def getini(self, name: str) -> Any:
        return self._written.get(name)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512M", 512 << 20), ("2G", 2 << 30), ("2GiB", 2 << 30), ("1t", 1 << 40), ("4096", 4096), (4096, 4096)],
)
def test_size(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (4096, "4 KiB"), (3 << 19, "1.5 MiB"), (5 << 29, "2.5 GiB")],
)
def test_shown_size(size: int, shown: str) -> None:
    assert format_size(size) == shown


@pytest.mark.parametrize("text", ["12x", "", "0", "-1M", "1.5G", "M", "1 M M", "٣M x"])
def test_wrong_size_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a size"):
        parse_size(text)


@given(st.integers(min_value=1, max_value=1 << 20), st.sampled_from("KMGT"))
def test_a_size_reads_back(number: int, unit: str) -> None:
    assert parse_size(f"{number}{unit}") == number << {"K": 10, "M": 20, "G": 30, "T": 40}[unit]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "two", "", "1e3", True])
def test_wrong_count_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="whole number"):
        parse_positive_int(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x", ""])
def test_wrong_number_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="above 0"):
        parse_positive_float(text)


def test_defaults_are_the_documented_ones() -> None:
    assert Settings.load(Given(), {}) == Settings()


def test_option_beats_environment_beats_ini() -> None:
    written = {"xhyve_image": ["ini"], "xhyve_accel": "tcg", "xhyve_cpus": "3"}
    environment = {"PYTEST_XHYVE_IMAGE": "env", "PYTEST_XHYVE_ACCEL": "kvm", "PYTEST_XHYVE_CPUS": "5"}
    assert Settings.load(Given({}, written), {}).images == ("ini",)
    assert Settings.load(Given({}, written), environment).images == ("env",)
    settings = Settings.load(Given({"xhyve_image": ["typed", "again"]}, written), environment)
    assert settings.images == ("typed", "again")
    assert settings.accel == "kvm"
    # CPUs have no variable: it is not read.
    assert settings.cpus == 3
    assert settings.given.keys() == {"image", "accel", "cpus"}


def test_colons_separate_images_but_not_the_parts_of_an_address() -> None:
    address, local = "https://example.org/a.qcow2#sha256=00", "http://127.0.0.1:8000/b.img#sha512=00"
    images = Settings.load(Given(), {"PYTEST_XHYVE_IMAGE": f"tiny:{address}:./c.img:{local}:/d.img"}).images
    assert images == ("tiny", address, "./c.img", local, "/d.img")
    with pytest.raises(ConfigurationError, match="PYTEST_XHYVE_IMAGE: the value is empty"):
        Settings.load(Given(), {"PYTEST_XHYVE_IMAGE": "tiny:"})


@pytest.mark.parametrize("option", [option for option in OPTIONS if not option.repeatable], ids=lambda o: o.name)
def test_what_is_empty_counts_as_given(option: Any) -> None:
    with pytest.raises(ConfigurationError, match=option.flag):
        Settings.load(Given({option.ini: ""}), {})
    with pytest.raises(ConfigurationError, match=f"ini value {option.ini}"):
        Settings.load(Given({}, {option.ini: ""}), {})


@pytest.mark.parametrize("name", ["cpus", "max_guests", "boot_timeout", "timeout_factor", "memory"])
def test_zero_counts_as_given(name: str) -> None:
    with pytest.raises(ConfigurationError, match="'0'"):
        Settings.load(Given({f"xhyve_{name}": "0"}, {f"xhyve_{name}": "1"}), {})


def test_password_comes_from_the_environment() -> None:
    settings = Settings.load(Given(), {"PYTEST_XHYVE_PASSWORD": "hush"})
    assert settings.password is not None
    assert settings.password.reveal() == "hush"
    with pytest.raises(ConfigurationError, match="PYTEST_XHYVE_PASSWORD: the value is empty"):
        Settings.load(Given(), {"PYTEST_XHYVE_PASSWORD": ""})
    with pytest.raises(ConfigurationError, match="more than one line") as raised:
        Settings.load(Given(), {"PYTEST_XHYVE_PASSWORD": "hush\nhush"})
    assert "hush" not in str(raised.value)


def test_near_miss_is_suggested() -> None:
    with pytest.raises(ConfigurationError, match="did you mean qemu"):
        Settings.load(Given({"xhyve_hypervisor": "quemu"}), {})


def test_table_of_options_fits_what_their_texts_mean() -> None:
    options = {option.name: option for option in OPTIONS}
    assert options.keys() == PARSERS.keys()
    assert f"{EMULATION_FACTOR:g} times as long" in options["boot_timeout"].help
