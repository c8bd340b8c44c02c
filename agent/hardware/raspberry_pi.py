"""What is the Raspberry Pi's own: revision codes, and the firmware's word for throttling.

Sources: raspberrypi.com/documentation, "Raspberry Pi revision codes" and "vcgencmd get_throttled".
"""

import re

TYPES = {
    0x0: "A", 0x1: "B", 0x2: "A+", 0x3: "B+", 0x4: "2 Model B", 0x6: "Compute Module 1", 0x8: "3 Model B",
    0x9: "Zero", 0xA: "Compute Module 3", 0xC: "Zero W", 0xD: "3 Model B+", 0xE: "3 Model A+",
    0x10: "Compute Module 3+", 0x11: "4 Model B", 0x12: "Zero 2 W", 0x13: "400", 0x14: "Compute Module 4",
    0x15: "Compute Module 4S", 0x17: "5 Model B", 0x18: "Compute Module 5", 0x19: "500",
    0x1A: "Compute Module 5 Lite",
}  # fmt: skip
NEW_STYLE = 1 << 23
REVISION = re.compile(r"[0-9a-f]{4,8}", re.IGNORECASE)
# Bits of get_throttled, in the words of Heat; sixteen higher is the same since the start.
BITS = {0: "under_voltage", 1: "frequency_capped", 2: "throttled", 3: "soft_temperature_limit"}
THROTTLED = re.compile(r"(?:throttled=)?\s*(?:0x)?([0-9a-f]{1,8})", re.IGNORECASE)


def board_name(revision: str) -> str:
    """`a22082` -> Raspberry Pi 3 Model B; "" for anything else. Codes before 2014 are all of the first Pi."""
    if not REVISION.fullmatch(revision):
        return ""
    code = int(revision, 16)
    if not code & NEW_STYLE:
        return "Raspberry Pi Model B" if 2 <= code & 0xFFFF <= 0x15 else ""
    name = TYPES.get(code >> 4 & 0xFF)
    return f"Raspberry Pi {name}" if name else ""


def throttled(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What goes on now and what went on since the start; the bits as hex, as sysfs or vcgencmd write them."""
    match = THROTTLED.fullmatch(text.strip())
    bits = int(match[1], 16) if match else 0
    now = tuple(name for bit, name in BITS.items() if bits >> bit & 1)
    return now, tuple(name for bit, name in BITS.items() if bits >> bit + 16 & 1)
