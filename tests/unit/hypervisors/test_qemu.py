"""What needs a QEMU but no guest: command lines, its own words, the proof of acceleration, its control protocol."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from assembler import assemble, needs_assembler
from fake_images import KERNEL

from pytest_xhyve.doctor.host import check_sandbox
from pytest_xhyve.host import runs
from pytest_xhyve.host.guardian import GuardedProcess, Guardian
from pytest_xhyve.host.proofs import Proof
from pytest_xhyve.hypervisors.qemu import acceleration, driver
from pytest_xhyve.hypervisors.qemu.driver import Qemu
from pytest_xhyve.hypervisors.qemu.machine import QemuMachine, Wires
from pytest_xhyve.hypervisors.qemu.proof_programs import BootSector
from pytest_xhyve.hypervisors.qemu.qmp import QmpClient, QmpClosed, QmpError
from pytest_xhyve.model.errors import BootFailed, HypervisorExited, HypervisorNotFound, XhyveError
from pytest_xhyve.model.machine import Disk, Machine, Nic
from pytest_xhyve.model.values import Acceleration, Network
from pytest_xhyve.templates.differences import find_difference


@pytest.fixture
def process(tmp_path: Path) -> Iterator[GuardedProcess]:
    (tmp_path / "runs").mkdir()
    with runs.new_run(tmp_path / "runs") as (folder, lock):
        guardian = Guardian(folder, lock)
        with guardian.guard(folder / "a guest, with a comma", [], {}) as process:
            yield process
        guardian.close()


@pytest.fixture
def machine(process: GuardedProcess, tmp_path: Path) -> Machine:
    disk = process.folder / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(KERNEL)
    return Machine(
        name="g, with a comma",
        uuid=UUID(int=1),
        cpus=1,
        cpu="x86-64-v2",
        memory=64 << 20,
        disks=(Disk(disk),),
        nics=(Nic("52:54:00:00:00:01", forward=(22, 80)),),
        kernel=kernel,
        initrd=None,
        cmdline="console=ttyS0, with a comma",
    )


def anything() -> Machine:
    """A machine that is not started."""
    nics = (Nic("52:54:00:00:00:01"),)
    return Machine("g", UUID(int=1), 1, "x86-64-v2", 64 << 20, (), nics, Path("vmlinuz"), None, "console=ttyS0")


def qemu(tmp_path: Path, *, executable: str | None = None, accel: Acceleration = "tcg") -> Qemu:
    return Qemu(executable=executable, accel=accel, cache=tmp_path)


def test_starts_forwards_and_ends(tmp_path: Path, process: GuardedProcess, machine: Machine) -> None:
    with qemu(tmp_path).running(machine, process) as vm:
        ssh, web = vm.find_endpoint(22), vm.find_endpoint(80)
        assert ssh is not None
        assert web is not None
        assert ssh.host == web.host == "127.0.0.1"
        assert ssh.port != web.port
        assert vm.find_endpoint(443) is None
        other = vm.forward(443)
        assert vm.forward(443) == other
        assert vm.count_accepted(22) == 0
        # It accepts, and no guest has taken it.
        with socket.create_connection((ssh.host, ssh.port)):
            assert vm.count_accepted(22) == 0
        vm.pause()
        vm.resume()
        assert vm.exit_status() is None
        vm.kill()
        assert vm.exit_status() == -9
        with pytest.raises(XhyveError, match="is not running"):
            vm.pause()


def test_emulated_machine_keeps_a_limited_amount_of_translated_code(
    tmp_path: Path, process: GuardedProcess, machine: Machine
) -> None:
    with qemu(tmp_path).running(machine, process):
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    # What can be both written and executed (proc(5)).
    buffers = re.findall(r"^(\w+)-(\w+) rwxp ", maps, re.MULTILINE)
    assert 0 < sum(int(end, 16) - int(start, 16) for start, end in buffers) <= 128 << 20


def test_guests_run_behind_the_seccomp_filter(tmp_path: Path, process: GuardedProcess, machine: Machine) -> None:
    with qemu(tmp_path).running(machine, process):
        # Filter mode (proc(5)).
        assert "Seccomp:\t2\n" in Path(f"/proc/{process.pid}/status").read_text()


def test_qemu_without_seccomp_runs_without_it(tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_text(
        "#!/bin/sh\ncase $* in *--version*) echo QEMU emulator version 9.9;; "
        "*-sandbox*) echo '-sandbox: There is no option group' >&2; exit 1;; esac\n"
    )
    program.chmod(0o755)
    without = qemu(tmp_path, executable=str(program))
    assert without.sandbox == Proof(False, "-sandbox: There is no option group")
    assert "-sandbox" not in without.argv(anything(), tmp_path)
    (finding,) = check_sandbox("linux", str(program))
    assert (finding.level, "There is no option group" in finding.detail) == ("warning", True)
    assert [finding.level for finding in check_sandbox("linux")] == ["ok"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (r"printf '\351\377 9.9\n'", r"is not QEMU; --version printed"),
        (r"printf '\351\n' >&2; exit 3", r"--version failed: "),
    ],
    ids=["not-utf-8", "fails"],
)
def test_program_that_is_another(tmp_path: Path, script: str, words: str) -> None:
    check_no_qemu(tmp_path, script, words)


def test_program_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert driver._VERSION_SECONDS <= 5
    monkeypatch.setattr(driver, "_VERSION_SECONDS", 0.5)
    check_no_qemu(tmp_path, "exec sleep 60", r"--version failed: .*timed out after 0\.5 s")


def check_no_qemu(tmp_path: Path, script: str, words: str) -> None:
    program = tmp_path / "qemu"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    begin = time.monotonic()
    with pytest.raises(HypervisorNotFound, match=words):
        _ = qemu(tmp_path, executable=str(program)).info
    assert time.monotonic() - begin < 15


def test_no_space_or_no_inode_is_told_with_a_cure(tmp_path: Path, process: GuardedProcess, machine: Machine) -> None:
    program = tmp_path / "qemu"
    program.write_text(
        "#!/bin/sh\ncase $* in *--version*) echo QEMU emulator version 9.9;; "
        "*) echo 'qemu: could not create pid.file: No space left on device' >&2; exit 1;; esac\n"
    )
    program.chmod(0o755)
    with pytest.raises(HypervisorExited, match=r"No space left on device\n.*pytest-xhyve prune"):  # noqa: SIM117
        with qemu(tmp_path, executable=str(program)).running(machine, process):
            pass


@pytest.mark.parametrize(
    ("network", "option"), [("nat", "user,id=net0,hostfwd"), ("isolated", "user,id=net0,restrict=on,ipv6=off,hostfwd")]
)
def test_network_decides_what_a_guest_reaches(tmp_path: Path, network: Network, option: str) -> None:
    machine = replace(anything(), nics=(Nic("52:54:00:00:00:01", network=network),))
    assert any(word.startswith(option) for word in qemu(tmp_path).argv(machine, tmp_path))


def test_a_port_that_is_none(tmp_path: Path, process: GuardedProcess, machine: Machine) -> None:
    with qemu(tmp_path).running(machine, process) as vm, pytest.raises(XhyveError, match="70000"):
        vm.forward(70000)


def test_wrong_option_is_told_in_qemus_words(tmp_path: Path, process: GuardedProcess, machine: Machine) -> None:
    wrong = replace(machine, nics=(Nic("no-mac"),))
    with pytest.raises(HypervisorExited, match=r"ended with exit code 1 .*\n.*no-mac"):  # noqa: SIM117
        with qemu(tmp_path).running(wrong, process):
            pass


def test_kernel_that_is_none_is_told_in_qemus_words(tmp_path: Path, process: GuardedProcess, machine: Machine) -> None:
    assert machine.kernel is not None
    machine.kernel.write_bytes(b"x" * 100)
    with pytest.raises(HypervisorExited, match=r"(?i)kernel"):  # noqa: SIM117
        with qemu(tmp_path).running(machine, process):
            pass


def test_missing_program_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(HypervisorNotFound, match=r"looked for no-qemu in PATH\n.*qemu-system-x86"):
        qemu(tmp_path, executable="no-qemu")


def test_program_that_is_no_qemu(tmp_path: Path) -> None:
    with pytest.raises(HypervisorNotFound, match="is not QEMU"):
        _ = qemu(tmp_path, executable="true").info
    with pytest.raises(HypervisorNotFound, match="--version failed"):
        _ = qemu(tmp_path, executable="false").info


def test_facts(tmp_path: Path, proofs: Path) -> None:
    info = qemu(tmp_path).info
    assert (info.name, info.acceleration, info.reason, info.emulated) == ("qemu", "tcg", "requested", True)
    assert info.version[0].isdigit()
    automatic = qemu(proofs, accel="auto").info
    assert automatic.acceleration in acceleration.candidates()
    assert automatic.reason


def test_saved_state_depends_on_the_program_and_not_on_its_place(tmp_path: Path) -> None:
    script = '#!/bin/sh\necho "QEMU emulator version 7.2.0"\n'
    depends = []
    for number, text in enumerate((script, script, f"{script}# another build\n")):
        program = tmp_path / str(number) / "qemu"
        program.parent.mkdir()
        program.write_text(text)
        program.chmod(0o700)
        os.utime(program, (number, number))
        depends.append(qemu(tmp_path, executable=str(program)).snapshotter.depends_on(anything()))
    assert depends[0] == depends[1]
    assert depends[0] != depends[2]
    assert find_difference(depends[0], depends[2]) == "another build of the hypervisor"
    assert not any(str(tmp_path) in value for value in depends[0].values())


def program_of(tmp_path: Path) -> str:
    return qemu(tmp_path)._executable


@needs_assembler
def test_proofs_program_is_what_its_source_says(tmp_path: Path) -> None:
    assert assemble(Path(__file__).with_name("boot_sector.S"), tmp_path) == BootSector.code
    assert len(BootSector.file) == 512


@pytest.mark.parametrize("machine", ["aarch64", "arm64"])
def test_host_of_another_architecture_emulates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    proof = acceleration.prove("/no/such/qemu", "1", "hvf", tmp_path)
    assert proof == Proof(False, f"the processor of this host is {machine}, and guests are x86_64")


def test_proof_fails_with_qemus_words(tmp_path: Path) -> None:
    proof = acceleration.prove(program_of(tmp_path), "1", "nonsense", tmp_path)
    assert not proof.works
    assert "nonsense" in proof.reason


def test_proof_is_remembered_until_something_changes(tmp_path: Path) -> None:
    counts = tmp_path / "count"
    program = tmp_path / "qemu"
    program.write_text(f'#!/bin/sh\necho x >>"{counts}"\nexit 33\n')
    program.chmod(0o700)
    for version in ("1", "1", "2"):
        assert acceleration.prove(str(program), version, "tcg", tmp_path).works
    assert counts.read_text() == "x\nx\n"
    for record in tmp_path.glob("tcg-*.json"):
        record.write_text("damaged")
    assert acceleration.prove(str(program), "1", "tcg", tmp_path).works


class Monitor:
    """QEMU's side of a QMP session."""

    def __init__(self) -> None:
        ours, self._theirs = socket.socketpair()
        self.client = QmpClient(ours, timeout=10)
        self._stream = self._theirs.makefile("rwb")

    def say(self, **message: object) -> None:
        self._stream.write(json.dumps(message).encode() + b"\n")
        self._stream.flush()

    def answer(self, **message: object) -> None:
        """Wait for a command and answer it."""

        def serve() -> None:
            asked = json.loads(self._stream.readline())
            self.say(event="RESUME", data={})
            self.say(**{"return": "an answer that nobody waits for", "id": asked["id"] - 1})
            self.say(**message, id=asked["id"])

        threading.Thread(target=serve, daemon=True).start()

    def close(self) -> None:
        self._stream.close()
        self._theirs.close()
        self.client.close()


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    monitor = Monitor()
    yield monitor
    monitor.close()


def test_qmp_takes_its_own_answer(monitor: Monitor) -> None:
    monitor.answer(**{"return": {"status": "running"}})
    assert monitor.client.execute("query-status") == {"status": "running"}


def test_qmp_error_is_qemus(monitor: Monitor) -> None:
    monitor.answer(error={"class": "GenericError", "desc": "no such thing"})
    with pytest.raises(QmpError, match="device_del: no such thing"):
        monitor.client.execute("device_del", id="x")


def test_qmp_goes_on_after_a_late_answer(monitor: Monitor) -> None:
    monitor.client._timeout = 0.05
    for _ in range(2):
        with pytest.raises(TimeoutError):
            monitor.client.execute("query-status")
    for _ in range(2):
        late = json.loads(monitor._stream.readline())
        monitor.say(**{"return": "late", "id": late["id"]})
    monitor.client._timeout = 10.0
    monitor.answer(**{"return": "in time"})
    assert monitor.client.execute("query-status") == "in time"


def test_qmp_end_is_noticed(monitor: Monitor) -> None:
    monitor._stream.close()
    monitor._theirs.close()
    with pytest.raises(QmpClosed):
        monitor.client.execute("query-status")


def test_mac_is_local_unicast_and_the_uuids(tmp_path: Path) -> None:
    identity = qemu(tmp_path).identify(iter([UUID(int=1), UUID(int=2)]))
    assert identity.uuid == UUID(int=1)
    assert identity.mac is not None
    first = int(identity.mac.split(":")[0], 16)
    assert first & 0b10
    assert not first & 0b1
    assert qemu(tmp_path).identify([UUID(int=2)]).mac != identity.mac


def test_commands_to_a_qemu_that_has_ended_or_hangs(process: GuardedProcess, machine: Machine) -> None:
    ours, theirs = socket.socketpair()
    with closing(QmpClient(ours, timeout=0.2)) as client:
        vm = QemuMachine(machine, process, Wires(client, ()))
        commands: list[Callable[[], object]] = [vm.pause, lambda: vm.find_endpoint(22), lambda: vm.forward(80)]
        for ask in commands:
            with pytest.raises(BootFailed, match=f"guest {machine.name} did not answer: it hangs"):
                ask()
        theirs.close()
        assert vm.find_endpoint(22) is None
        for ask in (commands[0], commands[2]):
            with pytest.raises(HypervisorExited, match=f"guest {machine.name} is not running"):
                ask()
