"""What holds of whatever somebody may write: it is taken, or refused with our own error; nothing else ever happens."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_images import write_image
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_xhyve.fleet.fleet import _as_name
from pytest_xhyve.formats.private_key import find_unusable
from pytest_xhyve.formats.public_key import parse_public_key
from pytest_xhyve.host.sizes import format_size
from pytest_xhyve.images.catalog import find_manifest
from pytest_xhyve.images.keys import KeyPair
from pytest_xhyve.images.manifest import CPU_LEVELS, FORMATS, read_manifest
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.settings import MAX_GUESTS
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.values import parse_positive_int, parse_size, short_repr, suggest

KEYS = tuple(field.name for field in fields(Image) if field.name != "manifest")
PAIR = KeyPair.generate()

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary(),
    lambda children: st.lists(children) | st.dictionaries(st.text() | st.integers(), children),
    max_leaves=5,
)
lines = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest that is right, to be written over."""
    return write_image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def content(manifest: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(manifest.read_text())
    return read


@given(key=st.sampled_from(KEYS), value=anything)
def test_any_value_of_a_key(manifest: Path, content: dict[str, Any], key: str, value: Any) -> None:
    manifest.write_text(yaml.safe_dump({**content, key: value}))
    try:
        image = read_manifest(manifest)
    except ConfigurationError as error:
        assert str(error).startswith(f"{manifest}: {key}: ")
    else:
        assert getattr(image, key) is not None


@given(key=st.text() | st.integers() | st.booleans() | st.none(), value=anything)
def test_any_other_key(manifest: Path, content: dict[str, Any], key: Any, value: Any) -> None:
    if key in KEYS:
        return
    manifest.write_text(yaml.safe_dump({**content, key: value}))
    with pytest.raises(ConfigurationError) as raised:
        read_manifest(manifest)
    assert f"{manifest}: unknown key {short_repr(key)}" in str(raised.value)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(KEYS), anything))
def test_any_mapping(manifest: Path, mapping: dict[str, Any]) -> None:
    manifest.write_text(yaml.safe_dump(mapping))
    try:
        read_manifest(manifest)
    except ConfigurationError as error:
        assert str(manifest) in str(error)
        assert any(key in str(error) for key in KEYS)


@settings(max_examples=50)
@given(st.binary() | st.text().map(str.encode) | st.text("{}[]&*!|>%@:-,'\"#? \nabc019~.").map(str.encode))
@example(b"made: " + b"[" * 1200)
@example(b"cpus: 0x" + b"f" * 5000)
@example(b"size: " + b"9" * 5000)
@example(b"made: !!timestamp x")
@example(b"made: !!bool x")
@example(b"made: 2001-99-99")
@example(b"made: &a [*a]")
@example(b"? [a]\n: b")
@example(b"? {a: b}\n: c")
@example(b"<<: 1")
def test_any_bytes_as_a_manifest(manifest: Path, text: bytes) -> None:
    manifest.write_bytes(text)
    with pytest.raises(ConfigurationError) as raised:
        read_manifest(manifest)
    assert str(manifest) in str(raised.value)


@settings(max_examples=50)
@given(
    st.fixed_dictionaries(
        {"disk": lines, "kernel": lines, "cmdline": lines, "user": lines, "key": lines},
        optional={
            "name": lines,
            "format": st.sampled_from(FORMATS),
            "cpus": st.integers(1, 1 << 40),
            "memory": st.integers(1 << 24, 1 << 62),
            "size": st.integers(1, 1 << 62),
            "sha256": st.binary(min_size=32, max_size=32).map(bytes.hex),
            "initrd": lines,
            "cpu": st.sampled_from(CPU_LEVELS),
            "made": st.dictionaries(st.text(), st.text()),
        },
    )
)
def test_what_is_right_is_read_as_it_is_written(manifest: Path, mapping: dict[str, Any]) -> None:
    manifest.write_text(yaml.safe_dump({**mapping, "host_keys": [f"{PAIR.public} somebody@somewhere"]}))
    try:
        image = read_manifest(manifest)
    except ConfigurationError as error:
        assert "begins with the home of a user" in str(error)
        return
    for key, value in mapping.items():
        read = getattr(image, key)
        assert read == (manifest.parent / Path(value).expanduser() if isinstance(read, Path) else value)
    assert image.host_keys == (PAIR.public,)


@given(anything)
def test_any_size(value: Any) -> None:
    try:
        assert 0 < parse_size(value) < 1 << 63
    except ConfigurationError as error:
        assert str(error).startswith(short_repr(value))


@given(st.integers(0, 1 << 50))
def test_shown_size_is_near(size: int) -> None:
    text = format_size(size)
    match = re.fullmatch(r"(\d+)(?:\.(\d))? (B|KiB|MiB|GiB)", text)
    assert match is not None
    unit = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[match[3]]
    last_digit = unit if match[2] is None else unit / 10
    assert abs((int(match[1]) + int(match[2] or 0) / 10) * unit - size) <= last_digit / 2 + 1
    assert len(text) <= len("1048576.0 GiB")


@given(anything)
@example(10**5000)
@example("9" * 5000)
@example("٣")
def test_any_count(value: Any) -> None:
    try:
        assert parse_positive_int(value) >= 1
    except ConfigurationError as error:
        assert str(error).startswith(short_repr(value))


@given(st.text() | st.text("abcXYZ019-_.", max_size=70))
def test_any_name_of_a_guest(name: str) -> None:
    try:
        spec = GuestSpec.parse(name=name)
    except ConfigurationError as error:
        assert str(error).startswith("name: ")
    else:
        assert spec.name is not None
        # RFC 1123, section 2.1
        assert re.fullmatch(r"(?!-)[a-zA-Z0-9-]{1,63}(?<!-)", spec.name)


@given(st.text() | lines, st.integers(0, MAX_GUESTS - 1))
def test_any_name_of_an_image_gives_guests_a_name(image: str, slot: int) -> None:
    name = f"{_as_name(image)}-{slot}"
    assert GuestSpec.parse(name=name).name == name


@settings(max_examples=30)
@given(st.dictionaries(st.text(), anything, max_size=3))
def test_any_keys_of_a_guest(keys: dict[str, Any]) -> None:
    try:
        GuestSpec.parse(**keys)
    except ConfigurationError as error:
        assert any(key in str(error) or repr(key) in str(error) for key in keys)


@given(st.text(), st.lists(st.text(min_size=1)))
def test_nearest_names_are_known_ones(word: str, known: list[str]) -> None:
    hint = suggest(word, tuple(known))
    assert hint == "" or any(name in hint for name in known)


@given(st.sampled_from(KEYS), st.data())
def test_a_slip_of_the_finger_is_understood(key: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(key) - 1))
    assert key in suggest(key[:at] + "x" + key[at:], KEYS)


@given(st.text())
def test_any_image_is_found_or_not(text: str) -> None:
    try:
        found = find_manifest(text, Path("/nowhere"))
    except ConfigurationError as error:
        assert repr(text) in str(error) or text in str(error)
    else:
        assert found is None or found.is_file()


@given(st.text())
def test_any_public_key(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_public_key(text)


@given(st.integers(0, len(PAIR.public) - 1))
def test_public_key_that_is_cut_off(length: int) -> None:
    with pytest.raises(ConfigurationError):
        parse_public_key(PAIR.public[:length])


@given(st.binary())
def test_any_private_key(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "key"
    path.write_bytes(content)
    assert find_unusable(path) is not None


@given(st.integers(0, len(PAIR.private) - 40))
def test_private_key_that_is_cut_off(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "key"
    path.write_bytes(PAIR.private)
    assert find_unusable(path) is None
    path.write_bytes(PAIR.private[:length])
    assert find_unusable(path) is not None
