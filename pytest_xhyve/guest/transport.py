"""paramiko's transport, made fit for several threads that ask the server at once, and for a server that is hostile."""

from __future__ import annotations

import threading
from typing import Any

import paramiko
from paramiko.common import MSG_CHANNEL_DATA, MSG_CHANNEL_EXTENDED_DATA, cMSG_CHANNEL_OPEN_FAILURE

# What these classes do with a message of the server has no public name.
_TRANSPORT: Any = paramiko.Transport
_CHANNEL: Any = paramiko.Channel
# Of the connections that a guest opens to servers of the test. Each takes two threads and a descriptor.
_MOST_CHANNELS = 256
_RESOURCE_SHORTAGE = 4  # RFC 4254, section 5.1
# What stands before the data of a message.
_HEAD_BYTES = 64


def _check_window(channel: Any, message: paramiko.Message) -> None:
    """Check the data that the server has sent to *channel*; paramiko takes any amount.

    Raises:
        paramiko.SSHException: it is more than the server may send before the data is read.
    """
    kept = len(channel.in_buffer) + len(channel.in_stderr_buffer) + len(message.get_remainder())
    if kept > channel.in_window_size + _HEAD_BYTES:
        raise paramiko.SSHException("the server has sent more than its window allows")


def _feed_output(channel: Any, message: paramiko.Message) -> None:
    _check_window(channel, message)
    _CHANNEL._feed(channel, message)


def _feed_messages(channel: Any, message: paramiko.Message) -> None:
    _check_window(channel, message)
    _CHANNEL._feed_extended(channel, message)


class SerialTransport(paramiko.Transport):
    """A transport that sends one global request (RFC 4254, section 4) after the other.

    paramiko keeps the answer of the last one only, without a check whom it is for. So the answer to a keepalive could
    become the one to a request for a port, and the other way round.

    It also ends the connection of a server that sends more than a channel's window allows (RFC 4254, section 5.2).
    paramiko keeps all of it, and a guest may have a server of its own.
    """

    _channel_handler_table = {  # noqa: RUF012  # as paramiko has it
        **_TRANSPORT._channel_handler_table,
        MSG_CHANNEL_DATA: _feed_output,
        MSG_CHANNEL_EXTENDED_DATA: _feed_messages,
    }

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._asking = threading.Lock()
        super().__init__(*arguments, **options)

    def global_request(self, kind: str, data: Any = None, wait: bool = True) -> paramiko.Message | None:
        """See `paramiko.Transport.global_request`; ends when the connection ends."""
        if not wait:
            return super().global_request(kind, data, wait)
        with self._asking:
            return super().global_request(kind, data, wait)

    def _parse_channel_open(self, message: paramiko.Message) -> None:
        """Called by paramiko if the server opens a channel."""
        this: Any = self
        if len(this._channels) < _MOST_CHANNELS:
            _TRANSPORT._parse_channel_open(self, message)
            return
        message.get_text()
        answer = paramiko.Message()
        answer.add_byte(cMSG_CHANNEL_OPEN_FAILURE)
        answer.add_int(message.get_int())
        answer.add_int(_RESOURCE_SHORTAGE)
        answer.add_string("")
        answer.add_string("en")
        this._send_message(answer)
