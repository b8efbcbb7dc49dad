"""What holds of any manifest that somebody may write: it is taken, or refused with an error of the plugin's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_images import write_image
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import KEYS, anything, examples, lines, users

from pytest_xhyve.images.keys import KeyPair
from pytest_xhyve.images.manifest import FORMATS, read_manifest
from pytest_xhyve.images.sources import find_source
from pytest_xhyve.model.architecture import host_architecture
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.values import short_repr

PAIR = KeyPair.generate()
# Each level has the one before it twice: 40 lines stand for a million million values.
EXPONENTIAL = b"made: &l0 [x, x]\n" + b"".join(b"m%d: &l%d [*l%d, *l%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 40))
MERGED = b"".join(b"m%d: &l%d {<<: [*l%d, *l%d]}\n" % (n, n, n - 1, n - 1) for n in range(1, 40))


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


@examples(50)
@given(st.dictionaries(st.sampled_from(KEYS), anything))
def test_any_mapping(manifest: Path, mapping: dict[str, Any]) -> None:
    manifest.write_text(yaml.safe_dump(mapping))
    try:
        read_manifest(manifest)
    except ConfigurationError as error:
        assert str(manifest) in str(error)
        assert any(key in str(error) for key in KEYS)


@examples(50)
@given(st.binary() | st.text().map(str.encode) | st.text("{}[]&*!|>%@:-,'\"#? \nabc019~.").map(str.encode))
@example(b"made: " + b"[" * 1200)
@example(b"cpus: 0x" + b"f" * 5000)
@example(b"size: " + b"9" * 5000)
@example(b"made: !!timestamp x")
@example(b"made: !!bool x")
@example(b"made: 2001-99-99")
@example(b"made: &a [*a]")
@example(b"disk: &a {b: {c: [*a]}}")
@example(b"made: " + b" " * (1 << 20))
@example(EXPONENTIAL + b"user: *l39")
@example(EXPONENTIAL + b"? *l39\n: 1")
@example(b"base: &l0 {a: 1}\n" + MERGED + b"made: *l39")
@example(b"? [a]\n: b")
@example(b"? {a: b}\n: c")
@example(b"<<: 1")
def test_any_bytes_as_a_manifest(manifest: Path, text: bytes) -> None:
    manifest.write_bytes(text)
    with pytest.raises(ConfigurationError) as raised:
        read_manifest(manifest)
    assert str(manifest) in str(raised.value)


@examples(50)
@given(
    st.fixed_dictionaries(
        {"disk": lines, "kernel": lines, "cmdline": lines, "user": users, "key": lines},
        optional={
            "name": lines,
            "format": st.sampled_from(FORMATS),
            "cpus": st.integers(1, 1 << 40),
            "memory": st.integers(1 << 24, 1 << 62),
            "size": st.integers(1, 1 << 62),
            "sha256": st.binary(min_size=32, max_size=32).map(bytes.hex),
            "initrd": lines,
            "cpu": st.sampled_from(tuple(host_architecture().emulated_cpus)),
            "made": st.dictionaries(st.text(), st.text()),
        },
    )
)
@example(mapping={"disk": "0", "kernel": "0", "cmdline": "0", "user": "0", "key": "~0"})
def test_what_is_right_is_read_as_it_is_written(manifest: Path, mapping: dict[str, Any]) -> None:
    manifest.write_text(yaml.safe_dump({**mapping, "host_keys": [f"{PAIR.public} somebody@somewhere"]}))
    try:
        image = read_manifest(manifest)
    except ConfigurationError as error:
        assert "starts with the home folder of" in str(error)
        return
    for key, value in mapping.items():
        read = getattr(image, key)
        assert read == (manifest.parent / Path(value).expanduser() if isinstance(read, Path) else value)
    assert image.host_keys == (PAIR.public,)


@given(st.text())
def test_any_image_is_found_or_not(text: str) -> None:
    try:
        found = find_source(text, Path("/nowhere"))
    except ConfigurationError as error:
        assert text in str(error) or repr(text) in str(error) or short_repr(text) in str(error)
    else:
        path = found.manifest or found.disk
        assert found.recipe == text or (path is not None and path.is_file())


def test_image_in_a_folder_that_no_path_can_name() -> None:
    with pytest.raises(ConfigurationError, match="not found"):
        find_source("\0/0", Path("/nowhere"))
