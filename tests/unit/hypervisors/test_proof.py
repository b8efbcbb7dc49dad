"""The proof of an acceleration, for each architecture: what it finds of a QEMU that works or does not, and how soon."""

from __future__ import annotations

import platform
import resource
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pytest_xhyve.host.proofs import Proof
from pytest_xhyve.hypervisors.qemu import acceleration
from pytest_xhyve.model.architecture import ARCHITECTURES, Architecture

REFUSED_SECONDS, EMULATED_SECONDS = 2.5, 2.0
SHORT_SECONDS = 0.5
HUNG = "the host advertises hvf, but a test program hung for {:g} s"


@pytest.fixture(params=list(ARCHITECTURES.values()), ids=list(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Architecture:
    """An architecture, which this host seems to have."""
    found: Architecture = request.param
    monkeypatch.setattr(platform, "machine", lambda: found.name)
    return found


@pytest.fixture
def qemu(architecture: Architecture) -> str:
    """The program of QEMU for it."""
    found = shutil.which(architecture.program)
    if found is None:
        pytest.skip(f"{architecture.program} is not installed")
    return found


def write_program(folder: Path, script: str) -> str:
    """What stands for QEMU: a program that runs *script*."""
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def prove(tmp_path: Path, architecture: Architecture, script: str) -> Proof:
    """What is found of a program with *script*, whose answer takes no longer than may be."""
    begin = time.monotonic()
    proof = acceleration.prove(write_program(tmp_path, script), "11", "hvf", tmp_path, architecture)
    assert time.monotonic() - begin <= REFUSED_SECONDS
    return proof


def cpu_seconds_of_children() -> float:
    """A busy host does not change it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'Error: HV_BAD_ARGUMENT (0xfae94003)' >&2; exit 1", "Error: HV_BAD_ARGUMENT (0xfae94003)"),
        ("exit 0", "a test program ended QEMU with exit code 0"),
        # As QEMU of a broken build does: it aborts, or macOS kills it.
        ("kill -ABRT $$", "a test program ended QEMU with exit code -6"),
        ("kill -KILL $$", "a test program ended QEMU with exit code -9"),
    ],
    ids=["fails", "nothing ran", "aborts", "is killed"],
)
def test_what_does_not_work(tmp_path: Path, architecture: Architecture, script: str, reason: str) -> None:
    assert prove(tmp_path, architecture, script) == Proof(False, reason)


@pytest.mark.parametrize("script", ["exec sleep 60", "trap '' TERM; printf k; while :; do sleep 60; done"])
def test_what_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: Architecture, script: str) -> None:
    assert acceleration.PROOF_SECONDS <= 2
    assert acceleration.IDLE_SECONDS <= 10
    monkeypatch.setattr(acceleration, "IDLE_SECONDS", SHORT_SECONDS)
    assert prove(tmp_path, architecture, script) == Proof(False, HUNG.format(SHORT_SECONDS))


@pytest.mark.thorough
def test_busy_host_may_keep_it_waiting(tmp_path: Path, architecture: Architecture, qemu: str) -> None:
    """Otherwise all guests would be emulated until the host boots again."""
    script = f'sleep {acceleration.PROOF_SECONDS + 0.2}; exec {qemu} "$@"'
    proof = acceleration.prove(write_program(tmp_path, script), "11", "tcg", tmp_path, architecture)
    assert proof == Proof(True, "proved by a test program")


# Each of the two keeps a processor busy for 2 s.
@pytest.mark.thorough
def test_host_that_decodes_each_instruction(tmp_path: Path, architecture: Architecture, qemu: str) -> None:
    """QEMU's emulation, which here translates, looks up and logs each instruction by itself, is as slow as one."""
    words = subprocess.run([qemu, "--help"], check=True, capture_output=True, text=True, timeout=30).stdout
    one_by_one = "-singlestep" if "\n-singlestep" in words else "-accel tcg,one-insn-per-tb=on"
    script = f"""
        for word; do
            shift
            case $word in
                *accel=hvf) word=${{word%hvf}}tcg ;;
                host) word={architecture.emulated_cpus[architecture.default_cpu]} ;;
            esac
            set -- "$@" "$word"
        done
        exec {qemu} "$@" {one_by_one} -d exec,nochain -D /dev/null
    """
    begin = cpu_seconds_of_children()
    proof = acceleration.prove(write_program(tmp_path, script), "11", "hvf", tmp_path, architecture)
    # A very busy host gives it less than that until the other limit.
    assert proof in (Proof(False, HUNG.format(2)), Proof(False, HUNG.format(10)))
    assert cpu_seconds_of_children() - begin <= REFUSED_SECONDS


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(found, id=name, marks=() if name == "x86_64" else pytest.mark.thorough)
        for name, found in ARCHITECTURES.items()
    ],
    indirect=True,
)
def test_emulated_cpu_works(tmp_path: Path, architecture: Architecture, qemu: str) -> None:
    seconds = []
    for version in ("1", "2", "3"):
        begin = cpu_seconds_of_children()
        proof = acceleration.prove(qemu, version, "tcg", tmp_path, architecture)
        seconds.append(cpu_seconds_of_children() - begin)
        assert proof == Proof(True, "proved by a test program")
    assert min(seconds) <= EMULATED_SECONDS
