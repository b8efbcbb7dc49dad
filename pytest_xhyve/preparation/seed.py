"""Data for cloud-init's data source NoCloud, in the folder of the system that cloud-init looks into first.

Without a data source, cloud-init waits for a cloud. A seed in the system stays with each guest. A second disk with a
seed would not, and cloud-init takes a boot without it for another machine, and makes new host keys.
"""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from pytest_xhyve.formats.public_key import parse_public_key
from pytest_xhyve.formats.yaml_text import load_foreign
from pytest_xhyve.images.own_login import USER_DATA
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.preparation.new_file import NewFile

_FOLDER = "var/lib/cloud/seed/nocloud"
# In the configuration of the system, which the user's data may override. The host keys stay the known ones.
_SETTINGS = "etc/cloud/cloud.cfg.d/99-pytest-xhyve.cfg"
# A list without a type is not valid, and of this type there is a key.
_SETTINGS_TEXT = """\
ssh_deletekeys: false
ssh_genkeytypes: [ed25519]
preserve_hostname: true
"""
_META_DATA = b"instance-id: pytest-xhyve\n"
# The rest of the system stays as it is on the disk.
_USER_DATA = b"""\
#cloud-config
ssh_deletekeys: false
ssh_genkeytypes: [ed25519]
disable_root: false
preserve_hostname: true
growpart: {mode: "off"}
grub_dpkg: {enabled: false}
locale: false
package_update: false
package_upgrade: false
"""


def plan_seed(seed: Mapping[str, bytes] | None, network_config: str) -> tuple[NewFile, ...]:
    """The files of the seed.

    Args:
        seed: the user's own data, by the names of its files; None for the plugin's.
        network_config: what is used if the user's data has none (cloud-init's network-config, version 2).
    """
    files = {"meta-data": _META_DATA, "network-config": network_config.encode(), **(seed or {USER_DATA: _USER_DATA})}
    return (
        NewFile(_SETTINGS, _SETTINGS_TEXT.encode()),
        *(NewFile(f"{_FOLDER}/{name}", content, 0o600) for name, content in files.items()),
    )


def seed_host_keys(seed: Mapping[str, bytes]) -> tuple[str, ...]:
    """The public host keys that the user-data of *seed* gives the guest; none if it gives none.

    Raises:
        ConfigurationError: the user-data makes cloud-init create host keys that the plugin cannot know.
    """
    text = seed[USER_DATA].decode("utf-8", "replace")
    if not text.startswith("#cloud-config"):
        return ()
    try:
        content = load_foreign(text)
    except yaml.YAMLError:
        # cloud-init reports it.
        return ()
    if not isinstance(content, dict):
        return ()
    keys = content.get("ssh_keys")
    if isinstance(keys, dict):
        public = [value for name, value in keys.items() if str(name).endswith("_public")]
        if not public:
            raise ConfigurationError(
                "--xhyve-seed: ssh_keys in user-data has no public key\n"
                "  add `ed25519_public:` or the like, so that the plugin knows the host key before it logs in"
            )
        return tuple(parse_public_key(str(value)) for value in public)
    if content.get("ssh_deletekeys") is True:
        raise ConfigurationError(
            "--xhyve-seed: `ssh_deletekeys: true` in user-data makes cloud-init create host keys that the plugin "
            "cannot know\n"
            "  leave it out, or give the host keys as `ssh_keys:`"
        )
    return ()
