"""The objects that the C side knows by their numbers, which are never given again."""

from __future__ import annotations

from typing import Any

from ._native import ffi, lib

objects: dict[int, Any] = {}

ON_DROP = ffi.addressof(lib, "drop")


def add(thing: object) -> int:
    """Returns the number of an object that stays until the C side drops it."""
    number: int = lib.new_number()
    objects[number] = thing
    return number


def pointer(number: int) -> Any:
    """Returns the number as user data of the C API."""
    return ffi.cast("void *", number)


def number(user_data: object) -> int:
    """Returns the number that is user data; 0 for NULL."""
    return int(ffi.cast("uintptr_t", user_data))


def milliseconds(seconds: float) -> int:
    """Rounds up: a time that is not 0 does not become 0. The library judges the bounds."""
    if not 0 <= seconds < 1 << 31:
        return (1 << 32) - 1
    return -int(-seconds * 1000 // 1)
