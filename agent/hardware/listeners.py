"""Who can reach a TCP port of this box: the kernel's table of listening sockets."""

import ipaddress
from pathlib import Path

from agent.hardware.text import read

ROOT = Path("/")
TABLES = ("proc/net/tcp", "proc/net/tcp6")
LISTENING = "0A"


def is_exposed(host: str, port: int, root: Path = ROOT) -> bool | None:
    """Whether something on this box listens on `port` for others too; None for another box's port, and
    where nobody tells. Raises nothing."""
    if not is_local(host):
        return None
    addresses = [found for name in TABLES for found in _listening(read(root / name), port)]
    if not addresses:
        return None
    return any(not address.is_loopback for address in addresses)


def is_local(host: str) -> bool:
    """True for an address that does not leave this box."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listening(table: str, port: int) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The local addresses of the sockets that listen on `port`; lines that are none are left out."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 4 or fields[3] != LISTENING:
            continue
        address, _, number = fields[1].partition(":")
        try:
            if int(number, 16) == port:
                found.append(_address(address))
        except ValueError:
            continue
    return found


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """`0100007F`: words of four bytes, each in the order of this machine, which is little-endian on every
    CPU that llama.cpp is built for. Raises ValueError."""
    data = bytes.fromhex(text)
    words = b"".join(data[start : start + 4][::-1] for start in range(0, len(data), 4))
    address = ipaddress.ip_address(words)
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address
