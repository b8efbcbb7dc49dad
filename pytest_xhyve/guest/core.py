"""A guest's machine, its login, and how it is started, restored and replaced."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_xhyve.guest import ssh_config
from pytest_xhyve.guest.console import Console
from pytest_xhyve.guest.expose import ExposedPorts
from pytest_xhyve.guest.fault_notes import FaultNotes
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.lan_setup import set_up_lans
from pytest_xhyve.guest.power import Power
from pytest_xhyve.guest.recorder import WriteRecorder
from pytest_xhyve.guest.root_shell import root_shell
from pytest_xhyve.guest.start import BootMachine, Start
from pytest_xhyve.hypervisors.base import Endpoint, HypervisorInfo, VirtualMachine
from pytest_xhyve.model.errors import (
    NotSupported,
    XhyveError,
)
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import SSH_PORT, Machine

if TYPE_CHECKING:
    import paramiko

    from pytest_xhyve.guest.throttle import CpuThrottle


class GuestCore:
    """What `pytest_xhyve.Guest` is built on: the state of one guest, for the rooms of this package that own guests."""

    def __init__(
        self,
        instance: Instance,
        machine: Machine,
        *,
        boot: BootMachine | None = None,
        phases: Mapping[str, float] | None = None,
    ) -> None:
        self._instance = instance
        self._machine = machine
        self._boot: BootMachine = boot or partial(Start.boot, instance)
        self._phases = dict(phases or {})
        # If there is an owner, `remove` closes its stack, which switches this off.
        self._own_power = Power(machine, instance)
        self._recorder = WriteRecorder(machine.name, instance.process.folder)
        self._faults = FaultNotes()
        self._throttle: CpuThrottle | None = None
        self._before_use: Callable[[], None] | None = None
        self._process = os.getpid()
        self._exposed = ExposedPorts(machine.name, partial(root_shell, self, instance.timeouts.step))
        if instance.shares is not None:
            self._exposed.ports = instance.shares.exposed
        self._own_power.login.after = self._set_up

    def __reduce__(self) -> NoReturn:
        # multiprocessing and concurrent.futures pickle what they pass to another process.
        raise TypeError(
            f"cannot pickle guest {self.name}: pass guest.host and guest.port, or guest.ssh_command(), instead"
        )

    @property
    def name(self) -> str:
        """The guest's name. It is the host name, unless the guest boots directly and has no systemd."""
        return self._machine.name

    @property
    def uuid(self) -> str:
        """The machine's SMBIOS UUID, which depends on the slot."""
        return str(self._machine.uuid)

    @property
    def mac(self) -> str:
        """The Ethernet address of the first network card.

        Raises:
            XhyveError: the guest is off, and the hypervisor has not reported the address yet.
        """
        mac = self._machine.nics[0].mac or self._power.machine.mac
        if mac is None:
            raise XhyveError(f"the Ethernet address of guest {self.name} is not known yet")
        return mac

    @property
    def image(self) -> Image:
        """The image that the guest was cloned from."""
        return self._instance.image

    @property
    def machine(self) -> Machine:
        """The description of the guest's hardware."""
        return self._machine

    @property
    def hypervisor(self) -> HypervisorInfo:
        """The name, version and acceleration of the hypervisor that runs the guest."""
        return self._instance.hypervisor.info

    @property
    def console(self) -> Console:
        """The guest's serial port.

        Raises:
            XhyveError: the guest was never started.
        """
        return self._own_power.console

    @property
    def host(self) -> str:
        """The address at which the test reaches the guest's SSH server.

        Raises:
            XhyveError: the guest is off, or has no address yet.
        """
        return self._ssh_endpoint().host

    @property
    def port(self) -> int:
        """The TCP port at which the test reaches the guest's SSH server; raises as `host` does."""
        return self._ssh_endpoint().port

    @property
    def addresses(self) -> Mapping[str, str]:
        """The guest's IPv4 address on each of its LANs, by the LAN's name; empty for a guest without LANs."""
        place = self._instance.lans.place
        return {} if place is None else {card.lan: str(card.address.ip) for card in place.cards}

    @property
    def address(self) -> str:
        """The guest's IPv4 address on its first LAN; the test reaches the guest at `host` and `port`, not here.

        Raises:
            XhyveError: the guest is on no LAN.
        """
        addresses = list(self.addresses.values())
        if not addresses:
            raise XhyveError(
                f"guest {self.name} is on no LAN; guests of xhyve_guests are\n"
                "  guest.host and guest.port, or guest.forward(…), reach it from the test"
            )
        return addresses[0]

    @property
    def phases(self) -> Mapping[str, float]:
        """The duration of each step from the request to the login, in seconds, in their order.

        The steps are ``image`` (find and check it, or build it), ``template`` (find and check it, or build it; only if
        the guest was restored), ``clone``, ``start`` (of the hypervisor), ``boot`` (to the SSH banner) or ``restore``
        and ``banner``, and ``login``.
        """
        return dict(self._phases)

    def is_healthy(self) -> bool:
        """Whether the guest runs, without a kernel panic, and its SSH connection is open."""
        return self._power.is_healthy()

    @property
    def ssh(self) -> paramiko.SSHClient:
        """A connected paramiko client; it stays the same until the guest restarts or the connection breaks.

        Raises:
            BootFailed: the guest does not answer any more.
            ConnectionFailed: the guest answers, but the login failed.
        """
        return self._power.login.client()

    def start(self) -> None:
        """Boot the guest again, with the same disk and identity, after `shutdown` or `kill`.

        Raises:
            BootFailed: the guest did not boot.
            ConnectionFailed: SSH answered, but the login failed.
            XhyveError: the guest is already running.
        """
        if self._power.is_on:
            raise XhyveError(f"guest {self.name} is already running")
        for phase in ("template", "restore", "banner"):
            self._phases.pop(phase, None)
        self._phases |= self._power.switch_on(self._recorded(self._boot(self._machine)), self._instance.timeouts.boot)
        self._write_login()

    def kill(self) -> None:
        """Kill the hypervisor; the guest's disk stays for `start`.

        What programs in the guest have written and not synced is lost, as far as the guest's kernel has not written it
        to the disk. What has reached the disk stays, also if it was not flushed. `power_cut` takes that back, too.

        Raises:
            XhyveError: the hypervisor does not end.
        """
        self._power.switch_off()

    def ssh_config(self) -> str:
        """A Host block for OpenSSH's configuration (ssh_config(5)), named like the guest.

        Pass it to ``ssh -F``, Ansible, testinfra or fabric. With it, OpenSSH checks the guest's host key.

        Raises:
            XhyveError: the guest is off, or has no address yet.
        """
        return ssh_config.host_block(self.name, self._ssh_endpoint(), self.image, self._folder)

    def ssh_command(self) -> tuple[str, ...]:
        """The command line that logs in to the guest with OpenSSH; it works until the guest is removed.

        Raises:
            XhyveError: the guest is off, or has no address yet.
        """
        return ssh_config.login_command(self.name, self.ssh_config(), self._folder)

    @property
    def _folder(self) -> Path:
        return self.console.path.parent

    @property
    def _power(self) -> Power:
        """The guest's switch and connection. Each method above gets them here, so that `_before_use` runs first."""
        if os.getpid() != self._process:
            raise XhyveError(
                f"guest {self.name} belongs to process {self._process}, which forked this one\n"
                "  two processes cannot share a connection: call guest.ssh_command() before the fork, and run it here"
            )
        if self._before_use is not None:
            # For example, the reset for a test that does not name the guest's fixture.
            before_use, self._before_use = self._before_use, None
            before_use()
        return self._own_power

    def _mount_shares(self) -> None:
        """Mount the host's folders that are not mounted yet.

        Raises:
            XhyveError: the guest cannot mount one.
        """
        if self._instance.shares is not None:
            # Few guests have shares.
            from pytest_xhyve.guest.share_setup import mount_shares  # noqa: PLC0415

            mount_shares(self, self._instance.shares, self._instance.timeouts.step)

    def _write_login(self) -> None:
        """Write the files by which `pytest-xhyve shell` logs in; without them, only that does not work."""
        endpoint = self._own_power.machine.find_endpoint(SSH_PORT)
        with suppress(OSError):
            if endpoint is not None:
                block = ssh_config.host_block(self.name, endpoint, self.image, self._folder)
                ssh_config.login_command(self.name, block, self._folder)

    def _switch_off(self) -> None:
        """Like `kill`, but without `_before_use`: for an owner that does not need the guest's state any more."""
        self._end_throttle()
        self._own_power.switch_off()

    def _end_throttle(self) -> None:
        if self._throttle is not None:
            self._throttle.end()
            self._throttle = None

    def _boot_or_restore(self, start: Start[Any] | None = None) -> None:
        """Start the guest's machine; if that fails, switch it off.

        Args:
            start: restores the guest; None boots it.

        Raises:
            XhyveError: the guest does not boot, or cannot be restored.
        """
        timeouts = self._instance.timeouts
        if start is not None:
            self._phases.pop("boot", None)
        try:
            self._phases |= self._own_power.switch_on(
                self._recorded(start or self._boot(self._machine)),
                timeouts.boot if start is None else timeouts.restore,
            )
        except XhyveError as error:
            if start is None:
                self._report_boot_failed(error)
            self._switch_off()
            raise
        except BaseException:
            self._switch_off()
            raise
        self._write_login()

    def _set_up(self, may_have_booted: bool) -> None:
        """After a login, give the guest other guests, the test's servers, and the host's folders."""
        instance = self._instance
        if may_have_booted and instance.lans.place is not None:
            set_up_lans(self, self._machine, instance.lans.place, instance.timeouts.step)
        self._exposed.renew(self._own_power.login.connection)
        if may_have_booted:
            self._mount_shares()

    def _report_boot_failed(self, error: XhyveError) -> None:
        """Report *error* to the listeners; they get the whole guest."""
        raise NotImplementedError

    def _replace_machine(self, machine: Machine, start: Start[Any], boot: BootMachine) -> None:
        """Switch the guest off, and restore another *machine* in its place.

        Args:
            machine: the new machine, with the same identity.
            start: restores the machine now.
            boot: boots the machine after a power-off.
        """
        self._switch_off()
        self._recorder.discard()
        # A disk that was unplugged then is there again after a power-off.
        self._machine, self._boot = replace(machine, unplugged=self._machine.unplugged), boot
        self._boot_or_restore(start)

    def _recorded(self, start: Start[Any]) -> Start[Any]:
        """*start*, which also records the guest's writes if that was requested."""
        # No fault outlives the hypervisor.
        self._faults.end()
        self._end_throttle()
        return start if self._recorder.max_size is None else start.then(self._begin_recording)

    def _begin_recording(self, vm: VirtualMachine) -> None:
        block = vm.block
        if block is None:
            raise NotSupported(
                f"{self.hypervisor.name} cannot record what guest {self.name} writes; use --xhyve-hypervisor=qemu"
            )
        self._machine = self._recorder.begin(block, self._machine)

    def _ssh_endpoint(self) -> Endpoint:
        endpoint = self._power.machine.find_endpoint(SSH_PORT)
        if endpoint is None:
            raise XhyveError(f"guest {self.name} has no address yet")
        return endpoint
