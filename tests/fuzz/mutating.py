"""Damage as files suffer it, and as somebody who means harm would do it: bytes, text, JSON, safetensors headers, archives."""

import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS = [
    "-1",
    "0",
    "1",
    "-0.0",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e309",
    "1e-400",
    "2147483648",
    "9223372036854775808",
    "18446744073709551616",
    "0x1f",
    "1_000",
    "٣",
    "1,5",
]
WORDS = [
    "",
    " ",
    "null",
    "../../x",
    "/etc/passwd",
    "os:system",
    "a;b",
    '"',
    "\u202e",
    "\x00",
    "é",
    "x" * 5000,
    "[]",
    "{}",
    "!!int",
    "%s",
]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    2**64,
    1e308,
    "",
    "x",
    "../x",
    "os:system",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
]
VALUES += [float("nan"), float("inf"), "9" * 400, 10**400]
MARKS = [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x00", b"\x80\x04", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n"]
DEEP = b"[" * 100_000

Mutation = Callable[[bytes, Random], bytes]


def place(content: bytes, random: Random) -> int:
    return random.randrange(len(content) + 1)


def flip(content: bytes, random: Random) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(random.choice((1, 1, 3, 30))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def cut(content: bytes, random: Random) -> bytes:
    return content[: place(content, random)]


def insert(content: bytes, random: Random) -> bytes:
    at = place(content, random)
    return content[:at] + random.randbytes(random.choice((1, 8, 500))) + content[at:]


def remove(content: bytes, random: Random) -> bytes:
    at = place(content, random)
    return content[:at] + content[at + random.choice((1, 8, 500)) :]


def repeat(content: bytes, random: Random) -> bytes:
    first, last = sorted((place(content, random), place(content, random)))
    return content[:last] + content[first:]


def mark(content: bytes, random: Random) -> bytes:
    return random.choice(MARKS) + content


def replace_all(content: bytes, random: Random) -> bytes:
    return random.choice([b"", b"\n", b"\0" * 100, b"{}", b"[]", b"null", DEEP, *MARKS, random.randbytes(300)])


BYTES: list[Mutation] = [flip, cut, insert, remove, repeat, mark, replace_all]


def number(content: bytes, random: Random) -> bytes:
    return _token(content, random, rb"-?\d+(?:\.\d+)?", NUMBERS)


def word(content: bytes, random: Random) -> bytes:
    return _token(content, random, rb"[A-Za-z_][A-Za-z_0-9]*", WORDS)


def _token(content: bytes, random: Random, pattern: bytes, others: list[str]) -> bytes:
    found = list(re.finditer(pattern, content))
    if not found:
        return flip(content, random)
    it = random.choice(found)
    return content[: it.start()] + random.choice(others).encode() + content[it.end() :]


def line(content: bytes, random: Random) -> bytes:
    lines = content.split(b"\n")
    at, other = random.randrange(len(lines)), random.randrange(len(lines))
    return b"\n".join(random.choice(([*lines[:at], *lines[at + 1 :]], [*lines[:at], lines[other], *lines[at:]])))


def separator(content: bytes, random: Random) -> bytes:
    return _token(content, random, rb"[,:;\[\]{}\"']", ["", ",", ";", ":", "\t", "\r", '"', "[", "}"])


def encoded(content: bytes, random: Random) -> bytes:
    text = content.decode("utf-8", "replace")
    return text.encode(random.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig")))


TEXT: list[Mutation] = [number, number, word, line, separator, encoded]


def as_json(content: bytes, random: Random) -> bytes:
    """One value somewhere inside becomes another, goes, or is wrapped."""
    return json.dumps(changed(json.loads(content), random)).encode()


def changed(value: Any, random: Random) -> Any:
    inside = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    if not inside or random.random() < 0.15:
        return random.choice((random.choice(VALUES), [value], {"x": value}))
    key, copy = random.choice(list(inside)), dict(value) if isinstance(value, dict) else list(value)
    if random.random() < 0.1:
        del copy[key]
    elif isinstance(copy[key], str) and copy[key][:1] == "{" and random.random() < 0.9:
        copy[key] = json.dumps(changed(json.loads(copy[key]), random))
    else:
        copy[key] = changed(copy[key], random)
    return copy


def as_safetensors(content: bytes, random: Random) -> bytes:
    """The header and its metadata, with the length that goes with it."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    if isinstance(header, dict) and "__metadata__" in header and random.random() < 0.6:
        header["__metadata__"] = changed(header["__metadata__"], random)
    else:
        header = changed(header, random)
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    return struct.pack("<Q", len(written)) + written + content[8 + size :]


def as_archive(content: bytes, random: Random) -> bytes:
    """A file of PyTorch's or NumPy's: one of its members is changed, and its checksum is right all the same."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice([*members, *(each for each in members if each.endswith("data.pkl"))])
    if random.random() < 0.1:
        del members[name]
    else:
        members[name] = random.choice((*BYTES, number, word))(members[name], random)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for each, values in members.items():
            archive.writestr(each, values)
    return out.getvalue()


def kinds_of(name: str) -> list[Mutation]:
    """What suits a file of this name, the most fitting several times."""
    if name.endswith(".json"):
        return [*BYTES, *TEXT, *[as_json] * 12]
    if name.endswith(".safetensors"):
        return [*BYTES, *[as_safetensors] * 10]
    if name.endswith((".pt", ".ckpt", ".npz")):
        return [*BYTES, *[as_archive] * 8]
    return [*BYTES, *TEXT * 2] if name.endswith((".csv", ".yaml", ".txt")) else BYTES


def mutated(name: str, content: bytes, random: Random) -> bytes:
    """A file's content, damaged in one way or two."""
    for _ in range(random.choice((1, 1, 1, 2))):
        kind = random.choice(kinds_of(name))
        try:
            content = kind(content, random)
        except (ValueError, KeyError, OSError, struct.error, zipfile.BadZipFile, RecursionError):
            content = flip(content, random)
    return content
