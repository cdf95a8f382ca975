"""Where Kafka's clients put a key: the 32-bit hash MurmurHash2 (Austin Appleby, 2008, public
domain) with the seed and the sign of Kafka's Java client (`Utils.murmur2`, `toPositive`). Pure.
"""

from __future__ import annotations

_SEED, _FACTOR, _BITS = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """The hash of a key, 31 bits: Kafka takes it modulo the number of partitions."""
    hashed, whole = _SEED ^ len(key), len(key) // 4 * 4
    for at in range(0, whole, 4):
        word = int.from_bytes(key[at : at + 4], "little") * _FACTOR & _BITS
        hashed = (hashed * _FACTOR & _BITS) ^ ((word ^ word >> 24) * _FACTOR & _BITS)
    if whole < len(key):
        hashed = (hashed ^ int.from_bytes(key[whole:], "little")) * _FACTOR & _BITS
    hashed = (hashed ^ hashed >> 13) * _FACTOR & _BITS
    return (hashed ^ hashed >> 15) & 0x7FFFFFFF
