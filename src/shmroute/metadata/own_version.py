"""The version that a metadata value gives itself. Pure."""

from __future__ import annotations

import msgspec

__all__ = ["own_version"]


class _Versioned(msgspec.Struct, gc=False):
    version: msgspec.Raw = msgspec.Raw(b"null")


_decode_object = msgspec.json.Decoder(_Versioned).decode
_decode_string = msgspec.json.Decoder(str).decode


def own_version(value: bytes) -> str | None:
    """`version` of a JSON object, where it is a string or a number; None for everything else.

    A number is taken as it is written: 1.10 is "1.10".
    """
    if not value.lstrip(b" \t\r\n").startswith(b"{"):
        return None
    try:
        raw = bytes(_decode_object(value).version)
        if raw.startswith(b'"'):
            return _decode_string(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None  # not JSON, whatever it looks like
    return raw.decode() if raw[:1] in b"-0123456789" else None
