"""The version that a metadata value states about itself. Pure."""

from __future__ import annotations

import re
from typing import Final

import msgspec


class _Versioned(msgspec.Struct, gc=False):
    version: msgspec.Raw = msgspec.Raw(b"null")


_decode_object = msgspec.json.Decoder(_Versioned).decode
_decode_string = msgspec.json.Decoder(str).decode

_TOKEN: Final = re.compile(
    rb"[ \t\r\n]*+(?:"
    rb'(?P<string>"(?:[^"\\]++|\\.)*+")'
    rb"|(?P<open>[\[{])|(?P<close>[\]}])|(?P<mark>[,:])"
    rb"|(?P<plain>-?[0-9][0-9.eE+-]*+|true|false|null|NaN|-?Infinity)"
    rb")[ \t\r\n]*+",
    re.DOTALL,
)
"""Matches one JSON token, or the NaN and Infinity that Python's json writes. The quantifiers are possessive,
so that no input makes the search slow."""

_CLOSED_BY: Final = {b"[": b"]", b"{": b"}"}


def own_version(value: bytes) -> str | None:
    """Return `version` of a JSON object, if it is a string or a number; None for everything else.

    A number is returned as it is written: 1.10 is "1.10". NaN, Infinity and nesting of any depth elsewhere in the
    object are accepted: otherwise the version would not be seen, and an old value would count as a new one.
    """
    if not value.lstrip(b" \t\r\n").startswith(b"{"):
        return None
    try:
        raw = bytes(_decode_object(value).version)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raw = _version_token(value)
    if not raw.startswith(b'"'):
        return raw.decode() if raw[-1:].isdigit() else None
    try:
        return _decode_string(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _version_token(value: bytes) -> bytes:
    """Return the token of the top-level field `version`; b"" if the value is not JSON. Not recursive.

    It reads values that msgspec refuses: NaN, Infinity, and nesting beyond the interpreter's recursion limit, which
    differs between versions of Python.
    """
    closings: list[bytes] = []
    at = 0
    found = b""
    key = before = b""
    while at < len(value):
        token = _TOKEN.match(value, at)
        if token is None or (at > 0 and not closings):
            return b""
        at = token.end()
        text = token[token.lastgroup or 0]
        if len(closings) == 1 and before == b":" and key == b'"version"':
            found = text
        elif len(closings) == 1 and before in (b"{", b",") and token.lastgroup == "string":
            key = text
        if token.lastgroup == "open":
            closings.append(_CLOSED_BY[text])
        elif token.lastgroup == "close" and closings.pop() != text:
            return b""
        before = text
    return found if not closings else b""
