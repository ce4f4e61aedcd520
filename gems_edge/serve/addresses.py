"""By which addresses a server is reached."""

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

_SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of a network interface


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(_number(listening)).is_loopback


def addresses(listening: socket.socket, scheme: str, token: str | None) -> list[str]:
    """The addresses of its page: those of this machine's networks where it listens to all of them."""
    number, port = _number(listening), listening.getsockname()[1]
    numbers = own_numbers() if ipaddress.ip_address(number).is_unspecified else [number]
    tail = f"?token={token}" if token else ""
    return [f"{scheme}://{f'[{each}]' if ':' in each else each}:{port}/{tail}" for each in numbers]


def own_numbers() -> list[str]:
    """This machine's IPv4 addresses in its networks; that of loopback where it has no other."""
    found = [number for _, name in socket.if_nameindex() if (number := _of_interface(name))]
    others = [number for number in found if not ipaddress.ip_address(number).is_loopback]
    return others or ["127.0.0.1"]


def own_names() -> list[str]:
    """The names by which this machine is called, in its network too."""
    name = socket.gethostname().lower()
    return list(dict.fromkeys(("localhost", name, f"{name.partition('.')[0]}.local")))


def _number(listening: socket.socket) -> str:
    return str(listening.getsockname()[0]).partition("%")[0]


def _of_interface(name: str) -> str:
    """ "" where it has none, and on systems that say it otherwise."""
    if not Path("/sys/class/net").exists():
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])
