"""The README and the docs, as far as no guest is needed to see that they are right."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import pages
import pytest
import yaml
from facts import facts_of

from pytest_xhyve.cli.cache_listing import CacheListing, ImageEntry, LayerEntry, TemplateEntry
from pytest_xhyve.cli.commands import main
from pytest_xhyve.cli.guests import Reaped
from pytest_xhyve.cli.prune import PruneCandidate, Pruned
from pytest_xhyve.doctor.examine import Report
from pytest_xhyve.doctor.findings import Finding
from pytest_xhyve.host.runs import GuestRecord
from pytest_xhyve.images.keys import KeyPair
from pytest_xhyve.images.manifest import parse_manifest
from pytest_xhyve.model.options import OPTIONS
from pytest_xhyve.model.restriction import Restriction
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.preparation.description import describe_disk
from pytest_xhyve.preparation.disk_file import DiskFile

# Every command on the pages that no test can run, as it takes another machine, or root, or hours.
NOT_RUN = {
    # README.md, CONTRIBUTING.md: the tests are part of them.
    "make demo",
    "make test",
    "make test-thorough",
    "make test-standin",
    "make test-long",
    "make test-aarch64",
    "make unit",
    "make test-images",
    "make soak",
    "make fuzz FUZZ_SECONDS=600",
    "make test-mac",
    "make lint",
    "make docs",
    "make bench",
    "make fix",
    "make seconds",
    "make test-oldest",
    ".venv/bin/pytest tests/unit -k test_every_room_is_described",
    ".venv/bin/pytest-xhyve build tiny debian12",
    '.venv/bin/pytest tests/guests -k "test_every_scope_has_its_guest and warm and tiny"',
    # Run by test_example_suites.
    "pytest conftest_examples/first_test --xhyve-image=debian12",
    # The tutorial's beginning; `make test` has done the same by tools/install-packages.
    "sudo apt-get install qemu-system-x86 qemu-utils openssh-client python3-venv",
    "sudo apt-get install mmdebstrap e2fsprogs fakeroot uidmap debian-archive-keyring",
    "python3 -m venv .venv",
    ". .venv/bin/activate",
    "pip install path/to/checkout",
    # An image of one's own, out of a machine that nobody has here.
    "ssh-keygen -t ed25519 -N '' -f guest_key",
    "ssh-copy-id -i guest_key.pub root@machine",
    "scp root@machine:/boot/vmlinuz root@machine:/boot/initrd.img .",
    "ssh root@machine 'cat /etc/ssh/ssh_host_*_key.pub /proc/cmdline'",
    "qemu-img convert -O qcow2 machine.vmdk ubuntu18.qcow2",
    "pytest --xhyve-image=ubuntu18.img --xhyve-user=tester --xhyve-key=tester_key",
    "pytest --xhyve-image=ubuntu18.img --xhyve-user=tester",
    "pytest --xhyve-image=cloud.qcow2 --xhyve-seed=seed --xhyve-user=tester --xhyve-key=tester_key",
    "pytest-xhyve boot-files ubuntu18.img boot",
    # Two terminals; test_resume_gdb.py does the same.
    "pytest-xhyve resume xhyve-failures/test_broken.py-test_mounts.xhyve --gdb",
    "gdb -ex 'cd …/runs/…/tiny-0.1f2e3d4c' -ex 'target remote gdb.sock'",
    # It takes an hour, and a disc.
    "pytest-xhyve install debian-12-netinst.iso mydebian",
    "pytest --xhyve-image=mydebian",
    # What only a network has.
    "pytest --xhyve-image=debian-12",
    "pytest-xhyve pull debian-12",
    # What only another host can do.
    "pytest-xhyve export tiny - | ssh host2 pytest-xhyve import -",
    # tests/unit/cli/test_registry.py does it.
    "pytest-xhyve export debian12 oci://registry.example/guests/debian12:1",
    "pytest-xhyve import oci://registry.example/guests/debian12:1",
    # tests/guests/test_hosts.py does it.
    "pytest-xhyve send tiny tester@host2",
    "pytest-xhyve send tiny host2 --python .venv/bin/python",
    "pytest --tx=ssh=host1//python=/srv/suite/.venv/bin/python//chdir=/srv/suite"
    " --tx=2*ssh=host2//python=/srv/suite/.venv/bin/python//chdir=/srv/suite --dist=load --xhyve-image=debian12",
    # On a Mac.
    'entitlements="$(mktemp -d)/hyperkit.entitlements"',
    "/usr/libexec/PlistBuddy -c 'Add :com.apple.security.hypervisor bool true' \"$entitlements\"",
    'codesign --force --sign - --entitlements "$entitlements" hyperkit/build/hyperkit',
    "sudo install hyperkit/build/hyperkit /usr/local/bin/",
    "sudo chown root:wheel /usr/local/bin/hyperkit && sudo chmod u+s /usr/local/bin/hyperkit",
    "pytest-xhyve build debian12",
    "rsync -a ~/.cache/pytest-xhyve/images ~/.cache/pytest-xhyve/keys mac:guests/",
    "pytest-xhyve doctor",
    "pytest --xhyve-image=~/guests/images/debian12.yaml",
    "sudo /usr/libexec/ApplicationFirewall/socketfilterfw --add /usr/libexec/bootpd",
    "sudo /usr/libexec/ApplicationFirewall/socketfilterfw --unblock /usr/libexec/bootpd",
}

by_page = pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)


@by_page
def test_every_block_has_a_kind(page: Path) -> None:
    for block in pages.blocks(page):
        assert block.kind in pages.KINDS, f"{block}: a block of no known kind ({block.kind or 'indented'})"
        if block.kind == "text":
            assert not re.search(r"^\s*(\$ |(sudo|pip|make|pytest|pytest-xhyve) )", block.text, re.MULTILINE), (
                f"{block}: commands belong into a block that is run (console) or listed (sh)"
            )
        if block.kind in ("ini", "toml", "yaml"):
            assert block.title, f"{block}: nobody uses it, as it has no title"


@by_page
def test_titled_tests_are_run(page: Path) -> None:
    commands = [step.command for block in pages.blocks(page, "console") for step in pages.steps(block)]
    for block in pages.blocks(page, "python"):
        if block.title and Path(block.title).name.startswith("test_"):
            runs = [command for command in commands if pages.program(command) == "pytest"]
            assert any(block.title in run or ".py" not in run for run in runs), f"{block}: nobody runs it"


@by_page
def test_commands_are_known(page: Path) -> None:
    for block in pages.blocks(page, "console"):
        found = list(pages.steps(block))
        assert found, f"{block}: no command"
        assert block.text.startswith("$ "), f"{block}: something is shown before the first command"
        for step in found:
            assert pages.program(step.command) in pages.COMMANDS, f"{block}: {step.command}"


def test_what_is_not_run_is_listed() -> None:
    lines = {
        line.partition(" #")[0].strip()
        for page in pages.PAGES
        for block in pages.blocks(page, "sh")
        for line in block.text.splitlines()
        if line.strip()
    }
    # The others are run by test_commands_for_a_readers_own_disk.
    assert lines == NOT_RUN | set(pages.ON_A_DISK)


@by_page
def test_names_exist(page: Path) -> None:
    text = page.read_text()
    flags = {option.flag for option in OPTIONS}
    assert set(re.findall(r"--xhyve-[a-z]+(?:-[a-z]+)*", text)) <= flags
    assert set(re.findall(r"(?:`|^|\$ )pytest-xhyve ([a-z]+(?:-[a-z]+)*)", text, re.MULTILINE)) <= set(main.commands)
    makefile = (pages.TOP / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z]+)|`make ([a-z]+)`", text, re.MULTILINE):
        assert f"\n{''.join(target)}:" in makefile
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link


def test_data_examples(tmp_path: Path) -> None:
    manifests = 0
    for page in pages.PAGES:
        for block in pages.blocks(page, "yaml", "toml"):
            if block.kind == "toml":
                tomllib.loads(block.text)
                continue
            data = yaml.safe_load(block.text)
            if "disk" in data:
                path = tmp_path / (block.title or "")
                path.write_text(block.text)
                assert parse_manifest(path).disk == tmp_path / data["disk"]
                manifests += 1
    assert manifests


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("docs") / "site"
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "--fail-on-warning", "-d", folder.parent / "doctrees", "docs", folder],
        cwd=pages.TOP,
        check=True,
    )
    return folder


class _Loaded(HTMLParser):
    """What a page makes the browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(given.get("href", ""))
        if tag in ("script", "img", "iframe", "source", "video", "object", "embed"):
            self.addresses += [given[name] for name in ("src", "data", "srcset") if name in given]


@pytest.mark.thorough
def test_site_loads_nothing_from_elsewhere(site: Path) -> None:
    found = list(site.rglob("*.html"))
    assert found
    for page in found:
        parser = _Loaded()
        parser.feed(page.read_text())
        assert parser.addresses
        assert not [address for address in parser.addresses if re.match(r"(?:\w+:)?//", address)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text()), sheet


@pytest.mark.thorough
def test_site_tells_all_that_the_code_has(site: Path) -> None:
    options = (site / "reference" / "options.html").read_text()
    for option in OPTIONS:
        assert f'id="{option.ini}"' in options
    commands = (site / "reference" / "command-line.html").read_text()
    for name in main.commands:
        assert f'id="pytest-xhyve-{name}"' in commands
    fixtures = (site / "reference" / "fixtures.html").read_text()
    for name in ("xhyve_guest", "xhyve_session_guest", "xhyve_guest_factory"):
        assert f'id="{name}"' in fixtures
    guest = (site / "reference" / "guest.html").read_text()
    errors = (site / "reference" / "errors.html").read_text()
    assert 'id="pytest_xhyve.Guest.run"' in guest
    for name in ("CommandFailed", "BootFailed.phase", "BootFailed.phases", "BootFailed.hints"):
        assert f'id="pytest_xhyve.{name}"' in errors


@pytest.mark.thorough
def test_site_has_what_readers_use(site: Path) -> None:
    page = (site / "first-test.html").read_text()
    assert 'action="search.html"' in page
    assert "template" in (site / "searchindex.js").read_text()
    assert "copybutton.js" in page
    assert "theme-toggle" in page
    assert 'href="#choose-an-image"' in page
    fixtures = (site / "reference" / "fixtures.html").read_text()
    for key in (field.name for kind in (GuestSpec, Restriction) for field in fields(kind)):
        assert f'<span class="pre">{key}</span>' in fixtures
    # The second line of a description.
    assert "without it, the hypervisor loads the kernel" in fixtures


def test_every_key_of_json_is_told_of() -> None:
    piece = PruneCandidate("image", "tiny", Path("/"), 0, 0.0, str, bool)
    template = TemplateEntry("tiny", "key", 0, 0.0, in_use=False)
    layer = LayerEntry("db", "key", 0, 0.0, "tiny", None, None)
    printed: dict[str, object] = {
        "ps": [field.name for field in fields(GuestRecord)],
        "reap": Reaped((), ()).as_json(),
        "images": CacheListing((ImageEntry("tiny", "", None, None),), (template,), (layer,)).as_json(),
        "prune": Pruned((piece,), ((piece, "reason"),)).as_json(dry_run=True),
        "show": describe_disk(Path("/"), DiskFile(Path("/"), "raw"), facts_of(), KeyPair.generate()),
        "doctor": [*json.loads(Report((), ()).as_json()), *(field.name for field in fields(Finding))],
    }
    page = (pages.TOP / "docs/reference/command-line.md").read_text()
    for command, content in printed.items():
        (row,) = re.findall(rf"^\| `{command}` \| (.*) \|$", page, re.MULTILINE)
        assert set(keys_of(content)) <= set(re.findall(r"`(\w+)`", row)), command


def keys_of(content: object) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield key
            yield from keys_of(value)
    elif isinstance(content, list):
        for value in content:
            yield from [value] if isinstance(value, str) else keys_of(value)
