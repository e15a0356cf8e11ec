"""Who can reach the page: this machine or others, by which names, and with which password."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from ..errors import OptionError

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]

PASSWORD = "CLEW_UI_AUTH"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def in_url(host: str) -> str:
    """A host as it stands in addresses: IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there. Raises `OptionError` for a name that nobody knows."""
    try:
        found = socket.getaddrinfo(host.strip("[]") if host else None, None)
    except OSError as error:
        raise OptionError(
            "the page cannot be served there", expected="an address of this machine", got=host, todo="--host 127.0.0.1"
        ) from error
    return bool(host) and all(ipaddress.ip_address(str(one[4][0]).partition("%")[0]).is_loopback for one in found)


def login_of(text: str) -> tuple[str, str]:
    """User and password of "user:password". Raises `OptionError`, which never repeats them."""
    user, colon, password = text.partition(":")
    if not (user.strip() and colon and password):
        got = "no colon" if not colon else "no user" if not user.strip() else "no password"
        raise OptionError("--auth takes a user and a password", expected="user:password", got=got)
    return user.strip(), password


def refuse_without_login(host: str, share: bool, login: tuple[str, str] | None, no_auth: bool) -> None:
    """Raises `OptionError` where others could reach the page, and no password was set."""
    if login is not None and no_auth:
        raise OptionError("a password and none", expected=f"--auth (or {PASSWORD}), or --no-auth", got="both")
    if login is None and not no_auth and (share or not is_loopback(host)):
        raise OptionError(
            "others could use this page",
            expected=f"a password: {PASSWORD}=user:password clew ui …, or --auth user:password, which `ps` shows",
            got="--share" if share else f"--host {host}",
            todo="set one, or say --no-auth; from another machine alone: ssh -L 7860:localhost:7860 THIS_MACHINE",
        )


def audience(host: str, port: int, share: str | None, login: tuple[str, str] | None) -> str:
    """In words, who can reach the page; `share`: its public address."""
    everyone = ["everyone on the internet who learns its address"] if share else []
    if not is_loopback(host):
        everyone.append(f"everyone who can reach this machine on port {port}")
    allowed = f", with the password of {login[0]}" if login else ""
    if not everyone:
        return f"Only this machine can reach it{allowed}."
    said = " and ".join(everyone)
    said = f"{said[0].upper()}{said[1:]} can use this page{allowed or ', without a password'}."
    return said if share else f"{said} What is sent is not encrypted."


class OnlyHosts:
    """ASGI middleware: a request must name one of `names` and the port it came to, or one of `elsewhere`, as its host.

    Other web pages can give a name of their own the address 127.0.0.1 (DNS rebinding); a browser then lets them read
    what this page says. It still sends the name that it was given.
    """

    def __init__(self, app: _App, names: Iterable[str], elsewhere: Iterable[str] = ()) -> None:
        """`elsewhere` is read anew for each request: it may grow."""
        self.app, self.names, self.elsewhere = app, [name.lower() for name in names], elsewhere

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._known(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            port = scope["server"][1]
            said = (
                f"This page answers to {' and '.join(f'{name}:{port}' for name in self.names)} alone, which keeps "
                f"other web pages out. Through ssh, forward the same port: ssh -L {port}:localhost:{port} MACHINE. "
                "For other machines: clew ui --host."
            )
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": said.encode()})

    def _known(self, scope: _Message) -> bool:
        port = scope["server"][1]
        sent = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        known = {*self.elsewhere, *(f"{name}:{port}" for name in self.names)}
        if port == 80:  # which browsers leave out
            known.update(self.names)
        return len(sent) == 1 and sent[0] in known
