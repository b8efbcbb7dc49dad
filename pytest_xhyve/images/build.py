"""Build an image of the catalog from Debian's packages, without mounts, loop devices or root.

mmdebstrap creates the root file system as an archive. The build adds keys and the recipe's files to it, takes the
kernel and the initial RAM disk from it, and lets mke2fs fill a file system with it. The result becomes the image in one
atomic step, when the manifest is renamed into place.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
import stat
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pytest_xhyve.formats.mbr import FIRST, master_boot_record
from pytest_xhyve.host import runs
from pytest_xhyve.host.digests import digest_of, remember_digest
from pytest_xhyve.host.guardian import Guardian
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.locks import locked
from pytest_xhyve.host.vanishing import changed_at
from pytest_xhyve.images import emulator
from pytest_xhyve.images.backing import folders_of
from pytest_xhyve.images.exporting import IMPORTED
from pytest_xhyve.images.files import read_if_complete
from pytest_xhyve.images.initrd import build_initrd
from pytest_xhyve.images.keys import KeyPair, client_key
from pytest_xhyve.images.layers import layers_over
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.images.publishing import new_workspace, seal, write_manifest
from pytest_xhyve.images.recipe import Recipe, read_recipe
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.values import parse_size

# Part of an image's identity. Increase it if this module builds a different image from the same recipe.
_FORMAT = 1

_MMDEBSTRAP_OPTIONS = (
    # The last matching option wins (dpkg(1)).
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/info/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    # The kernel package's hook would build an initial RAM disk; this module builds its own.
    "--dpkgopt=path-exclude=/etc/kernel/postinst.d/tiny-initramfs",
    "--dpkgopt=path-exclude=/etc/kernel/postrm.d/tiny-initramfs",
)
_MKE2FS_OPTIONS = (
    "-q",
    "-t", "ext4",
    "-L", "root",
    "-m", "1",
    "-J", "size=16",
    # Newer versions of mke2fs add these features, which older kernels cannot read.
    "-O", "^orphan_file,^metadata_csum_seed",
)  # fmt: skip
# mke2fs initializes everything now; otherwise each guest would do it in its first minutes.
_MKE2FS_EXTENDED = "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1,nodiscard"
_TOOLS = ("mmdebstrap", "mke2fs", "depmod", "tar")
TOOLS_PACKAGES = "mmdebstrap e2fsprogs kmod fakeroot uidmap util-linux debian-archive-keyring"
"""The packages of Debian and Ubuntu that contain the tools."""
# For the shell of mmdebstrap, with the variables that `_Build` sets.
_REGISTER = f'"$XHYVE_PYTHON" -m {emulator.__name__} register "$XHYVE_ARCHITECTURE"'
_LOG_LINES = 15
# Digits of the digest in the name of an image's folder.
_DIGITS = 12
_KEEP_SECONDS = 86400.0
# A tool waits for a mirror; on a slow host and a slow line, it took an hour.
_TOOL_SECONDS = 7200.0


def build_image(name: str, home: Home, report: Callable[[str], None], *, force: bool = False) -> Image:
    """The image *name* of the catalog; it is built if it is missing, or if its recipe or the user's key has changed.

    If two processes build the same image, the second waits and uses the first one's image. If a build is interrupted,
    nothing that it leaves is ever used as an image.

    Args:
        name: one of `pytest_xhyve.images.recipe.recipe_names`.
        home: the cache folder.
        report: called with a line for each step, because a build takes minutes.
        force: rebuild the image even if it is up to date.

    Raises:
        ImageError: the image cannot be built; the message names the missing tools, or contains the last output.
    """
    recipe = read_recipe(name)
    folder = home.folder("images")
    key, pair = client_key(home.folder("keys"))
    with locked(folder / f"{name}.lock", f"builds {name}", report=report):
        manifest = folder / f"{name}.yaml"
        identity = _identity(recipe, pair)
        if not force and (image := _find_built(manifest, identity)) is not None:
            return image
        with new_workspace(folder, name) as workspace, _guarded(home) as run:
            begin = monotonic()
            report(f"building {name} from Debian's packages; this happens once and takes a few minutes")
            _Build(recipe, workspace, folder / f"{name}.log", report, run).run(pair)
            _publish(recipe, workspace, manifest, key, identity, home)
            report(f"built {name} in {monotonic() - begin:.0f} s")
        _remove_unused(folder, name, read_manifest(manifest), home)
        return read_manifest(manifest)


class _Build:
    """One build, in its own folder."""

    def __init__(
        self, recipe: Recipe, workspace: Path, log: Path, report: Callable[[str], None], run: tuple[Guardian, Path]
    ) -> None:
        self._recipe = recipe
        self._workspace = workspace
        self._log = log
        self._report = report
        self._guardian, self._run_folder = run
        self._number = 0

    def run(self, client: KeyPair) -> None:
        """Create disk, kernel, initrd and host key in the workspace."""
        _check_tools(self._recipe)
        host = KeyPair.generate()
        root = self._workspace / "root.tar"
        self._log.write_text("")
        self._report("  unpacking packages")
        self._make_root(root)
        self._report("  kernel, initial RAM disk and keys")
        self._add_files(root, client, host)
        self._take_kernel(root)
        self._report("  file system")
        self._make_disk(root)
        (self._workspace / "host_key.pub").write_text(host.public)
        root.unlink()

    def _make_root(self, root: Path) -> None:
        recipe = self._recipe
        # For the hooks. This interpreter has the package, which a program python3 in PATH may not have.
        variables = [
            f"XHYVE_PYTHON={sys.executable}",
            f"XHYVE_CONSOLE={recipe.architecture.console}",
            f"XHYVE_ARCHITECTURE={recipe.architecture.name}",
        ]
        # For an ordinary user, mmdebstrap makes a user namespace.
        in_namespace = _is_emulated(recipe) and os.geteuid() == 0
        # The variant "extract" runs neither the packages' scripts nor a customize hook.
        hook = "extract" if recipe.variant == "extract" else "customize"
        self._tool(
            [
                "mmdebstrap",
                # Also for root: its mounts are then in their own namespace, which ends with the process.
                "--mode=unshare",
                f"--variant={recipe.variant}",
                f"--include={','.join(recipe.packages)}",
                f"--architectures={recipe.architecture.debian}",
                *_MMDEBSTRAP_OPTIONS,
                # mmdebstrap would look for an emulator even if it runs nothing of the packages.
                *([] if recipe.architecture.is_native() else ["--skip=check/qemu"]),
                *([f"--setup-hook={_REGISTER}"] if _is_emulated(recipe) else []),
                f"--{hook}-hook={recipe.customize}",
                recipe.suite,
                str(root),
            ],
            variables,
            through=[sys.executable, "-m", emulator.__name__, "enter"] if in_namespace else [],
        )

    def _add_files(self, root: Path, client: KeyPair, host: KeyPair) -> None:
        with tarfile.open(root, "a") as archive:
            present = {member.name.removeprefix("./") for member in archive}
            for inside, path in self._recipe.files.items():
                if path.is_dir():
                    if inside not in present:
                        _add(archive, inside, None, 0o755)
                else:
                    _add(archive, inside, path.read_bytes(), stat.S_IMODE(path.stat().st_mode) & 0o755)
            _add(archive, "root/.ssh", None, 0o700)
            _add(archive, "root/.ssh/authorized_keys", f"{client.public}\n".encode(), 0o600)
            if "usr/sbin/dropbear" in present:
                _add(archive, "etc/dropbear", None, 0o755)
                _add(archive, "etc/dropbear/dropbear_ed25519_host_key", host.dropbear, 0o600)
            else:
                _add(archive, "etc/ssh/ssh_host_ed25519_key", host.private, 0o600)
                _add(archive, "etc/ssh/ssh_host_ed25519_key.pub", f"{host.public}\n".encode(), 0o644)

    def _take_kernel(self, root: Path) -> None:
        with tarfile.open(root) as archive:
            kernels = [member for member in archive if "boot/vmlinuz-" in member.name]
            if not kernels:
                raise ImageError(f"the packages of {self._recipe.name} do not contain a kernel")
            kernel = archive.extractfile(kernels[-1])
            assert kernel is not None
            (self._workspace / "vmlinuz").write_bytes(kernel.read())
            initrd = build_initrd(archive, self._recipe.boot_modules, self._recipe.init.read_bytes())
            (self._workspace / "initrd.img").write_bytes(initrd)

    def _make_disk(self, root: Path) -> None:
        tree = self._workspace / "root"
        tree.mkdir()
        disk = self._workspace / "disk.img"
        unpack = ["tar", "-C", str(tree), "--numeric-owner", "--exclude=./dev/*"]
        unpack += ["-xpf", str(root)]
        size = parse_size(self._recipe.disk)
        offset = FIRST if self._recipe.partitioned else 0
        fill = ["mke2fs", *_MKE2FS_OPTIONS, "-E", f"{_MKE2FS_EXTENDED},offset={offset}", "-d", str(tree)]
        fill += [str(disk), f"{(size - offset) >> 10}k"]
        if os.geteuid() != 0:
            # The file carries each file's owner from the first fakeroot to the second.
            owners = str(self._workspace / "owners")
            Path(owners).touch(0o600)
            unpack = ["fakeroot", "-s", owners, "-i", owners, "--", *unpack]
            fill = ["fakeroot", "-i", owners, "--", *fill]
        self._tool(unpack)
        self._tool(fill, [f"PATH={os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"])
        shutil.rmtree(tree)
        if self._recipe.partitioned:
            # Only now: mke2fs asks for confirmation if a disk has a partition table.
            with disk.open("r+b") as file:
                file.write(master_boot_record(size, secrets.randbits(32)))

    def _tool(self, argv: Sequence[str], variables: Sequence[str] = (), through: Sequence[str] = ()) -> None:
        """Run a tool with more environment *variables*, and append its output to the log; *through* starts it.

        The guardian runs the tool as it runs a hypervisor. If this process is killed, the guardian ends the tool and
        its children. The children of mmdebstrap do not end with mmdebstrap.
        """
        self._number += 1
        with self._guardian.guard(self._run_folder / f"{argv[0]}-{self._number}", [], {}) as process:
            # If the tool is killed, its temporary files are removed with this folder. For an ordinary user this does
            # not work, because the tool's namespace may not access the folder.
            temporary = [f"TMPDIR={process.folder}"] if os.geteuid() == 0 else []
            process.start(["env", "--chdir=/", *temporary, *variables, *through, *argv], {}, {})
            status = process.wait(_TOOL_SECONDS)
            output = process.output()
            if status is None:
                raise ImageError(
                    f"cannot build {self._recipe.name}: {argv[0]} did not end within {_TOOL_SECONDS:g} s\n"
                    + "\n".join(f"    {line}" for line in output.splitlines()[-_LOG_LINES:])
                )
        with self._log.open("a") as log:
            log.write(f"$ {' '.join(argv)}\n{output}\n")
        if status != 0:
            raise ImageError(
                f"cannot build {self._recipe.name}: {argv[0]} ended with exit code {status}\n"
                + "\n".join(f"    {line}" for line in output.splitlines()[-_LOG_LINES:])
                + f"\n  read the complete log: {self._log}"
            )


@contextmanager
def _guarded(home: Home) -> Iterator[tuple[Guardian, Path]]:
    """Start a guardian; yield it and the folder of its run."""
    folder = home.folder("runs")
    runs.reap(folder)
    with runs.new_run(folder) as (run_folder, lock), closing(Guardian(run_folder, lock)) as guardian:
        yield guardian, run_folder


def _publish(recipe: Recipe, workspace: Path, manifest: Path, key: Path, identity: str, home: Home) -> None:
    """Publish *workspace* as the image: rename the folder, then rename the manifest into place."""
    disk = workspace / "disk.img"
    digest = digest_of(disk)
    target = manifest.with_name(f"{recipe.name}-{digest[:_DIGITS]}")
    content = {
        "name": recipe.name,
        "arch": recipe.architecture.name,
        "distro": recipe.distro,
        "init": recipe.init_system,
        **({} if recipe.version is None else {"version": recipe.version}),
        "disk": f"{target.name}/disk.img",
        "format": "raw",
        "size": disk.stat().st_size,
        "sha256": digest,
        "kernel": f"{target.name}/vmlinuz",
        "initrd": f"{target.name}/initrd.img",
        "cmdline": recipe.cmdline,
        "user": recipe.user,
        "key": os.path.relpath(key, manifest.parent),
        "host_keys": [(workspace / "host_key.pub").read_text()],
        "cpus": recipe.cpus,
        "memory": recipe.memory,
        "cpu": recipe.architecture.default_cpu,
        "made": {
            "recipe": recipe.name,
            "identity": identity,
            "suite": recipe.suite,
            "on": datetime.now(UTC).isoformat(timespec="seconds"),
            "log": f"{recipe.name}.log",
        },
    }
    seal(disk, workspace / "vmlinuz", workspace / "initrd.img")
    workspace.rename(target)
    remember_digest(target / "disk.img", digest, home.folder("checked"))
    write_manifest(manifest, content)


def _find_built(manifest: Path, identity: str) -> Image | None:
    """The image at *manifest* if all its files exist and it has this *identity* or was imported, or else None."""
    image = read_if_complete(manifest)
    # The key of an imported image is another one, and its recipe may be that of another version of the plugin.
    is_right = image is not None and (image.made.get(IMPORTED) or image.made.get("identity") == identity)
    return image if is_right else None


def _remove_unused(folder: Path, name: str, image: Image, home: Home) -> None:
    """Remove earlier builds of *name* that no running guest and no layer uses; builds of the last day stay."""
    used = {path for guest in runs.live_guests(home.folder("runs")) for path in folders_of(Path(guest.image_disk))}
    # The pattern does not match another image whose name starts with this one's.
    for earlier in folder.glob(f"{name}-{'[0-9a-f]' * _DIGITS}"):
        unused = earlier.is_dir() and earlier != image.disk.parent and earlier.resolve() not in used
        unused = unused and not layers_over(earlier, home)
        if unused and time.time() - changed_at(earlier) > _KEEP_SECONDS:
            shutil.rmtree(earlier, ignore_errors=True)


def _identity(recipe: Recipe, client: KeyPair) -> str:
    text = f"{_FORMAT}\0{recipe.architecture.name}\0{recipe.digest()}\0{client.public}"
    return hashlib.sha256(text.encode()).hexdigest()


def missing_tools() -> list[str]:
    """The tools for building images that are not installed on this host."""
    tools = [*_TOOLS, *(["fakeroot", "newuidmap"] if os.geteuid() != 0 else [])]
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return [tool for tool in tools if shutil.which(tool, path=path) is None]


def _is_emulated(recipe: Recipe) -> bool:
    """Whether the build runs programs for another processor than this host's."""
    return recipe.variant != "extract" and not recipe.architecture.is_native()


def _check_tools(recipe: Recipe) -> None:
    if sys.platform != "linux":
        raise ImageError(
            "images of the catalog can be built only on Debian and Ubuntu\n"
            "  build the image there, copy the folder of images, and give the manifest's path to --xhyve-image"
        )
    if missing := missing_tools():
        raise ImageError(
            f"cannot build an image: {', '.join(missing)} not found\n  Debian and Ubuntu: apt install {TOOLS_PACKAGES}"
        )
    if _is_emulated(recipe) and emulator.find_emulator(recipe.architecture) is None:
        raise ImageError(f"cannot build {recipe.name}: {emulator.explain_missing_emulator(recipe.architecture)}")


def _add(archive: tarfile.TarFile, path: str, content: bytes | None, mode: int) -> None:
    """Add a file, or a folder if *content* is None; root owns it."""
    member = tarfile.TarInfo(f"./{path}")
    member.mode = mode
    member.mtime = int(time.time())
    if content is None:
        member.type = tarfile.DIRTYPE
    else:
        member.size = len(content)
    archive.addfile(member, io.BytesIO(content or b""))
