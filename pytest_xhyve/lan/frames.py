"""How frames come on a cable: each follows its length.

This file is a part of the switch's script: it needs only the standard library.
"""

from __future__ import annotations

import struct

LENGTH = struct.Struct(">I")
"""The length of the frame that follows, in bytes."""

HEADER = LENGTH.size
"""Where the frame itself begins."""

ETHERNET_HEADER = 14
"""Bytes of the two addresses and the type at the beginning of a frame (IEEE 802.3)."""

MAX_FRAME = 1 << 16
"""Bytes. A longer frame shows that the other end of the cable does not send frames."""
