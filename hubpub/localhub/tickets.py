"""Short-lived access tokens of the xet store, which clients get in exchange for their Hub token."""

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
    """A new access token. The store's address contains the data folder's id, so that clients keep one cache per Hub."""
    expires = int(now) + _LIFETIME
    scope = "write" if writes else "read"
    token = f"{scope}.{expires}.{hub.sign('xet', scope, expires)}"
    return Ticket(url=f"{hub.endpoint}/cas/{hub.storage.id}", token=token, expires=expires)


def check(hub: Hub, token: str, *, writes: bool, now: float) -> None:
    """Refuse a token that this Hub did not issue, that has expired, or that lacks the right to write."""
    scope, _, rest = token.partition(".")
    expires, _, signature = rest.partition(".")
    expected = hub.sign("xet", scope, expires)
    if not hmac.compare_digest(expected.encode(), signature.encode()) or not expires.isdigit():
        raise Refused(401, "Not an access token of this xet store")
    if int(expires) < now:
        raise Refused(401, "The access token of the xet store has expired")
    if writes and scope != "write":
        raise Refused(403, "This access token of the xet store may only read")
