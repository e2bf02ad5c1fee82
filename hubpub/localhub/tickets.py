"""The short-lived passes to the xet store that clients get for their token."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from hubpub.localhub.call import Hub
from hubpub.localhub.refused import Refused

_LIFETIME = 3600  # seconds


@dataclass(frozen=True, kw_only=True)
class Ticket:
    url: str
    token: str
    expires: int  # seconds since 1970


def issue(hub: Hub, *, writes: bool, now: float) -> Ticket:
    """The store's address names the data folder: what a client remembers of one Hub it never uses for another."""
    expires = int(now) + _LIFETIME
    scope = "write" if writes else "read"
    token = f"{scope}.{expires}.{hub.sign('xet', scope, expires)}"
    return Ticket(url=f"{hub.endpoint}/cas/{hub.storage.id}", token=token, expires=expires)


def check(hub: Hub, token: str, *, writes: bool, now: float) -> None:
    """Refuse a pass that this Hub did not issue, that is too old, or that may only read."""
    scope, _, rest = token.partition(".")
    expires, _, signature = rest.partition(".")
    wanted = hub.sign("xet", scope, expires)
    if not hmac.compare_digest(wanted.encode(), signature.encode()) or not expires.isdigit():
        raise Refused(401, "Not a pass to this xet store")
    if int(expires) < now:
        raise Refused(401, "The pass to the xet store has expired")
    if writes and scope != "write":
        raise Refused(403, "This pass to the xet store may only read")
