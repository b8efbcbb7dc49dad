"""A disk as if it came from elsewhere."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pytest_xhyve.host.home import Home
from pytest_xhyve.images.build import build_image

_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
PATH = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
"""The environment of the tools of file systems."""


def debugfs(disk: Path, *commands: str) -> str:
    """Change the ext4 file system on the whole of *disk*, without mounting it (debugfs(8)); return what it printed."""
    done = subprocess.run(
        ["debugfs", "-w", "-f", "-", disk],
        input="\n".join(commands),
        text=True,
        check=True,
        capture_output=True,
        env=PATH,
    )
    return done.stdout


def replace_file(disk: Path, path: str, content: bytes, mode: int = 0o644) -> None:
    """Write the file at *path* of the ext4 file system on the whole of *disk*; root owns it."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        debugfs(
            disk,
            f"rm {path}",
            f"write {file.name} {path}",
            f"set_inode_field {path} mode 0{0o100000 | mode:o}",
            f"set_inode_field {path} uid 0",
            f"set_inode_field {path} gid 0",
        )


def read_bytes(disk: Path, path: str) -> bytes:
    """The content of the file at *path* of the file system on the whole of *disk*."""
    with tempfile.NamedTemporaryFile() as file:
        debugfs(disk, f"dump {path} {file.name}")
        return Path(file.name).read_bytes()


def read_file(disk: Path, path: str) -> str:
    """The text of the file at *path* of the file system on the whole of *disk*."""
    return read_bytes(disk, path).decode()


def set_password(disk: Path, user: str, password: str) -> None:
    """Give *user* of the system on *disk* a password (shadow(5))."""
    crypted = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=password, text=True, check=True, capture_output=True
    ).stdout.strip()
    lines = read_file(disk, "/etc/shadow").splitlines()
    changed = [f"{user}:{crypted}:19000:0:99999:7:::" if line.startswith(f"{user}:") else line for line in lines]
    replace_file(disk, "/etc/shadow", "".join(f"{line}\n" for line in changed).encode(), 0o600)


def install_sudo(disk: Path, sudoers: str) -> None:
    """Put debian12's sudo, with the PAM module that asks for a password, on tiny's *disk*: both are Debian 12."""
    debian = build_image("debian12", Home.of_user(), print).disk
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            ["debugfs", "-f", "-", debian],
            input=f"rdump {_LIBRARIES} {folder}\nrdump /usr/libexec/sudo {folder}\n"
            f"dump /usr/bin/sudo {folder}/program\n",
            text=True,
            check=True,
            capture_output=True,
            env=PATH,
        )
        libraries = folder / Path(_LIBRARIES).name
        modules = [libraries / "security" / f"pam_{name}.so" for name in ("unix", "permit")]
        plugin = folder / "sudo" / "sudoers.so"
        program = folder / "program"
        program.chmod(0o700)
        known = debugfs(disk, f"ls -p {_LIBRARIES}").split("/")
        needed = {path for file in (program, plugin, *modules) for path in _needed(file, libraries, folder / "sudo")}
        targets = {f"{_LIBRARIES}/{path.name}": path for path in needed if path.name not in known}
        targets |= {f"{_LIBRARIES}/security/{path.name}": path for path in modules}
        targets |= {f"/usr/libexec/sudo/{path.name}": path for path in (plugin, folder / "sudo" / "libsudo_util.so.0")}
        debugfs(
            disk,
            *(
                f"mkdir {path}"
                for path in (f"{_LIBRARIES}/security", "/usr/libexec", "/usr/libexec/sudo", "/etc/pam.d")
            ),
            *(f"write {path.resolve()} {target}" for target, path in targets.items()),
        )
        replace_file(disk, "/usr/bin/sudo", program.read_bytes(), 0o4755)
    replace_file(disk, "/etc/sudoers", sudoers.encode(), 0o440)
    stack = "auth required pam_unix.so\naccount required pam_permit.so\nsession required pam_permit.so\n"
    replace_file(disk, "/etc/pam.d/sudo", stack.encode())
    replace_file(disk, "/etc/pam.d/other", stack.encode())


def _needed(file: Path, *folders: Path) -> list[Path]:
    """The libraries of *folders* that *file* needs (ld.so(8))."""
    loader = folders[0] / "ld-linux-x86-64.so.2"
    loader.chmod(0o700)
    done = subprocess.run(
        [loader, "--library-path", ":".join(map(str, folders)), "--list", file],
        text=True,
        check=True,
        capture_output=True,
    )
    paths = [Path(word) for word in done.stdout.split() if word.startswith("/")]
    return [path for path in paths if path.parent == folders[0] and path != loader]


def copy_disk(source: Path, target: Path) -> Path:
    """Copy a disk with its holes."""
    subprocess.run(["cp", "--sparse=always", source, target], check=True)
    target.chmod(0o600)
    return target


def make_foreign_disk(path: Path, changes: Iterable[str] = ()) -> Path:
    """tiny's disk at *path*, with an initial RAM disk in /boot, without the plugin's key and host key.

    Args:
        path: the new file.
        changes: more commands of debugfs.
    """
    image = build_image("tiny", Home.of_user(), print)
    assert image.initrd is not None
    copy_disk(image.disk, path)
    listing = debugfs(path, "ls -p /boot")
    version = next(name for name in listing.split("/") if name.startswith("vmlinuz-")).removeprefix("vmlinuz-")
    debugfs(
        path,
        f"write {image.initrd} /boot/initrd.img-{version}",
        "rm /root/.ssh/authorized_keys",
        "rm /etc/dropbear/dropbear_ed25519_host_key",
        *changes,
    )
    return path
