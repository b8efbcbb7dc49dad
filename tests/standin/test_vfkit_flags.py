"""The parts of vfkit's command line that no published one shows: other forms of a flag, and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from standin.vfkit.flags import Ended, Flags, parse_flags
from standin.vfkit.machine import read_configuration
from standin.vfkit.rest import MAX_PATH, socket_path

EFI = ("-b", "efi")


def error_of(*words: str) -> str:
    """The error for *words*, which stands between the usage's two parts."""

    def read() -> None:
        flags = parse_flags(words)
        read_configuration(flags)
        socket_path(flags.restful_uri)

    with pytest.raises(Ended) as ended:
        read()
    assert ended.value.code == 1
    first, *_, last = ended.value.stderr.splitlines()
    assert first == f"Error: {last}"
    return last


def test_forms_of_a_flag() -> None:
    for words in (("--cpus", "3"), ("--cpus=3",), ("-c", "3"), ("-c3",), ("-c=3",), ("-nc", "0x3"), ("x", "-c", "0_3")):
        assert parse_flags(words).cpus == 3
    assert parse_flags(()) == Flags()
    assert parse_flags(("--", "--cpus", "3")).cpus == 1
    assert parse_flags(("--gui=false", "-n=t")).nested


def test_bootloader_has_quotes() -> None:
    flags = parse_flags(("-b", 'linux,kernel=k,cmdline="a=1,2 b"'))
    bootloader, _ = read_configuration(flags)
    assert bootloader.options == {"kernel": "k", "cmdline": "a=1,2 b"}
    assert parse_flags(("-b", "efi", "-b", '"variable-store=v,w"')).bootloader == ["efi", "variable-store=v,w"]


def test_old_flags_take_the_command_line_as_it_is() -> None:
    flags = parse_flags(("-k", "k", "-i", "i", "-C", 'a=1,2 dyndbg="file x +p"'))
    bootloader, _ = read_configuration(flags)
    assert bootloader.options == {"kernel": "k", "initrd": "i", "cmdline": 'a=1,2 dyndbg="file x +p"'}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--frob",), "unknown flag: --frob"),
        (("-z",), "unknown shorthand flag: 'z' in -z"),
        (("-nz",), "unknown shorthand flag: 'z' in -nz"),
        (("--=3",), "bad flag syntax: --=3"),
        (("--cpus",), "flag needs an argument: --cpus"),
        (("-c",), "flag needs an argument: 'c' in -c"),
        (
            ("-m", "2G"),
            'invalid argument "2G" for "-m, --memory" flag: strconv.ParseUint: parsing "2G": invalid syntax',
        ),
        (
            ("--gui=maybe",),
            'invalid argument "maybe" for "--gui" flag: strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
        (("-b", 'linux,cmdline="a'), 'invalid argument "linux,cmdline="a" for "-b, --bootloader" flag: mismatched "'),
        (
            ("-k", "k"),
            "if any flags in the group [kernel initrd kernel-cmdline] are set they must all be set; "
            "missing [initrd kernel-cmdline]",
        ),
        (
            ("-k", "k", "-i", "i", "-C", "c", "-b", "efi"),
            "if any flags in the group [initrd bootloader] are set none of the others can be; "
            "[bootloader initrd] were all set",
        ),
        ((), "empty option list in --bootloader command line argument"),
        (("-b", "grub"), "unknown bootloader type: grub"),
        (("-b", "efi,create=yes"), "unexpected value for EFI bootloader 'create' option: yes"),
        (("-b", "linux,root=/dev/vda"), "unknown option for Linux bootloaders: root"),
        ((*EFI, "--log-level", "loud"), "unknown log level: loud"),
        ((*EFI, "-t", "port=1"), "unknown option for timesync parameter: port"),
        ((*EFI, "-d", "virtio-tape"), "unknown device type: virtio-tape"),
        ((*EFI, "-d", ""), "unknown device type: "),
        ((*EFI, "-d", "virtio-rng,fast"), "unknown options for virtio-rng devices: [{fast }]"),
        ((*EFI, "-d", "virtio-net"), "one of 'nat' or 'fd' or 'unixSocketPath' must be set"),
        ((*EFI, "-d", "virtio-net,nat,fd=3"), "'nat' and 'fd' cannot be set at the same time"),
        ((*EFI, "-d", "virtio-net,fd=x"), 'strconv.Atoi: parsing "x": invalid syntax'),
        ((*EFI, "-d", "virtio-serial"), "one of 'logFilePath', 'stdio' or 'pty' must be set"),
        ((*EFI, "-d", "virtio-serial,pty,stdio"), "'stdio' and 'pty' cannot be set at the same time"),
        ((*EFI, "-d", "virtio-blk,path=gone"), "failed to open file gone: open gone: no such file or directory"),
        ((*EFI, "-d", "virtio-gpu,width=0"), "invalid value for virtio-gpu width: 0"),
        ((*EFI, "-d", "virtio-vsock,port=x"), 'strconv.ParseUint: parsing "x": invalid syntax'),
        ((*EFI, "--restful-uri", "ftp://x"), "invalid scheme ftp"),
        ((*EFI, "--restful-uri", "unix://x/y"), "invalid unix uri: host is forbidden"),
        ((*EFI, "--restful-uri", "unix://"), "invalid unix uri: missing path"),
        ((*EFI, "--restful-uri", "tcp://localhost"), "invalid TCP uri: missing port"),
        (
            (*EFI, "--restful-uri", "unix:///" + MAX_PATH * "x"),
            "invalid unix uri: socket path length exceeds macOS limits",
        ),
    ],
)
def test_errors(words: tuple[str, ...], error: str) -> None:
    assert error_of(*words) == error


def test_qcow2_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"QFI\xfb")
    assert error_of(*EFI, "-d", f"virtio-blk,path={tmp_path / 'disk'}") == "vfkit does not support qcow2 image format"


def test_pidfile_is_written_before_the_devices_are_read(tmp_path: Path) -> None:
    error_of(*EFI, "--pidfile", str(tmp_path / "pid"), "-d", "virtio-tape")
    assert (tmp_path / "pid").read_text().isdigit()
    error_of("--pidfile", str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()
