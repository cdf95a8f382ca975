"""Kafka's own protocol, as far as it takes to write a record that no client library would write.

Source: the Kafka protocol guide, Produce request version 3 and record batch format 2.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

ANSWER_TIMEOUT_S = 20.0
CRC32C = 0x82F63B78


def produce(
    host: str,
    port: int,
    topic: str,
    key: bytes,
    value: bytes,
    headers: Sequence[tuple[bytes, bytes]],
    time_ms: int,
) -> int:
    """Write one record to partition 0 of a topic; the broker's error code, 0 for none."""
    named = topic.encode()
    batch = _batch(key, value, headers, time_ms)
    body = struct.pack(">hhih", 0, 3, 1, -1)  # Produce 3, correlation 1, no client id
    body += struct.pack(">hhi", -1, 1, 10_000)  # no transaction, acks of the leader, timeout
    body += struct.pack(">ih", 1, len(named)) + named
    body += struct.pack(">iii", 1, 0, len(batch)) + batch
    with socket.create_connection((host, port), ANSWER_TIMEOUT_S) as broker:
        broker.sendall(struct.pack(">i", len(body)) + body)
        answer = broker.makefile("rb")
        (size,) = struct.unpack(">i", answer.read(4))
        told = answer.read(size)
    at = 4 + 4 + 2 + len(named) + 4 + 4  # correlation, topics, its name, partitions, its index
    (code,) = struct.unpack_from(">h", told, at)
    return int(code)


def _batch(key: bytes, value: bytes, headers: Sequence[tuple[bytes, bytes]], time_ms: int) -> bytes:
    record = b"\0" + _varint(0) + _varint(0) + _sized(key) + _sized(value) + _varint(len(headers))
    record += b"".join(_sized(name) + _sized(text) for name, text in headers)
    # Attributes, last offset, times, no producer id, epoch and sequence, one record.
    checked = struct.pack(">hiqqqhii", 0, 0, time_ms, time_ms, -1, -1, -1, 1) + _sized(record)
    after_length = struct.pack(">ibI", -1, 2, _crc32c(checked)) + checked
    return struct.pack(">qi", 0, len(after_length)) + after_length


def _sized(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """Zigzag, seven bits a byte, the lowest first."""
    left = number << 1 if number >= 0 else (-number << 1) - 1
    found = bytearray()
    while left > 0x7F:
        found.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*found, left])


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (CRC32C if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
