"""The login of a disk's own, as options state it, in the place of the plugin's key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pytest_xhyve.formats.private_key import find_unusable
from pytest_xhyve.host.terminal import ask_password
from pytest_xhyve.images.manifest import Manifest
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.options import PASSWORD_VARIABLE
from pytest_xhyve.model.secret import Secret
from pytest_xhyve.model.settings import Settings

USER_DATA = "user-data"
_MAX_SEED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class OwnLogin:
    """What the options state about the login; a value here beats the manifest's.

    Attributes:
        user: the user, or None.
        key: the private key, or None.
        password: for the login without a key, and for sudo; or None.
        seed: the folder with the user's data for cloud-init, or None.
    """

    user: str | None = None
    key: Path | None = None
    password: Secret | None = field(default=None, repr=False)
    seed: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> OwnLogin:
        """What *settings* state."""
        return cls(settings.user, settings.key, settings.password, settings.seed)

    def applied_to(self, manifest: Manifest) -> Manifest:
        """*manifest* with these values.

        Raises:
            ConfigurationError: the key or the seed cannot be used.
        """
        self._check()
        stated = {
            "user": self.user,
            # Relative to the folder in which the command was started, and not to that of a manifest.
            "key": None if self.key is None else self.key.absolute(),
            "password": self.password,
            "seed": self.seed,
        }
        changed = manifest.with_values(**{key: value for key, value in stated.items() if value is not None})
        if self.user is not None and not {"key", "password"} & changed.values.keys():
            # A user who was asked for logs in by the disk's own login, also root.
            return changed.with_values(password=None)
        return changed

    def _check(self) -> None:
        if self.key is not None:
            try:
                unusable = find_unusable(self.key)
            except OSError as error:
                raise ConfigurationError(f"--xhyve-key: cannot read {self.key}: {error.strerror}") from error
            if unusable is not None:
                raise ConfigurationError(f"--xhyve-key: {self.key} {unusable}")
        if self.seed is not None:
            read_seed(self.seed)


def read_seed(folder: Path) -> dict[str, bytes]:
    """The files of a seed for cloud-init's data source NoCloud, by their names.

    Raises:
        ConfigurationError: a file cannot be read, or there is no user-data.
    """
    found = {}
    for name in (USER_DATA, "meta-data", "network-config", "vendor-data"):
        try:
            with (folder / name).open("rb") as file:
                found[name] = file.read(_MAX_SEED_BYTES + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigurationError(f"--xhyve-seed: cannot read {folder / name}: {error.strerror}") from error
        if len(found[name]) > _MAX_SEED_BYTES:
            raise ConfigurationError(f"--xhyve-seed: {folder / name} has more than {_MAX_SEED_BYTES} bytes")
    if USER_DATA not in found:
        what = "has no file user-data" if folder.is_dir() else "is not a folder"
        raise ConfigurationError(
            f"--xhyve-seed: {folder} {what}\n"
            "  give the folder with cloud-init's user-data, and with meta-data and network-config if you have them"
        )
    return found


def ask_for_password(manifest: Manifest) -> Secret:
    """The password of the user whom *manifest* states, which a person types at the terminal.

    Raises:
        ConfigurationError: there is no terminal, or no answer.
    """
    password = ask_password(f"Password of {manifest.own_user} on {manifest.disk.name}: ")
    if password is None:
        raise ConfigurationError(explain_missing_password(manifest))
    return password


def explain_missing_password(manifest: Manifest) -> str:
    """The message for a login that has neither a key nor a password."""
    return (
        f"{manifest.path or manifest.disk}: user {manifest.own_user} has neither a key nor a password\n"
        f"  give the private key by --xhyve-key, or set {PASSWORD_VARIABLE}; at a terminal, pytest and pytest-xhyve ask"
    )
