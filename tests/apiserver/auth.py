"""Authentication and authorization: bearer tokens, and a table of grants for each user."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from . import status


@dataclass(frozen=True)
class Rule:
    """Verbs on resources in namespaces; "*" means any."""

    verbs: frozenset[str]
    resources: frozenset[str] = frozenset("*")
    namespaces: frozenset[str] = frozenset("*")

    def covers(self, verb: str, resource: str, namespace: str) -> bool:
        return all(
            value in allowed or "*" in allowed
            for value, allowed in (
                (verb, self.verbs),
                (resource, self.resources),
                (namespace, self.namespaces),
            )
        )


def rule(verbs: str | Iterable[str], resources: str | Iterable[str] = "*", namespaces: str = "*") -> Rule:
    def words(value: str | Iterable[str]) -> frozenset[str]:
        return frozenset(value.split(",") if isinstance(value, str) else value)

    return Rule(words(verbs), words(resources), words(namespaces))


class Auth:
    """Tokens to users, users to rules. A user without any grant may do everything."""

    def __init__(self, token: str = "test-token", user: str = "admin") -> None:
        self._lock = threading.Lock()
        self._tokens = {token: user}
        self._grants: dict[str, list[Rule]] = {}
        self._bans: dict[str, list[Rule]] = {}
        self.token = token
        #: Off, every request is let in, whatever it carries.
        self.required = True

    def add_token(self, token: str, user: str) -> None:
        with self._lock:
            self._tokens[token] = user

    def rotate(self, token: str | None = None) -> str:
        """Make the main token another one; the old one is refused from now on."""
        with self._lock:
            user = self._tokens.pop(self.token)
            self.token = token or secrets.token_hex(16)
            self._tokens[self.token] = user
            return self.token

    def grant(self, user: str, verbs: str | Iterable[str], resources: str = "*", namespaces: str = "*") -> None:
        """Allow a user these verbs; from its first grant on, a user may do nothing else. verbs: "list,watch"."""
        with self._lock:
            self._grants.setdefault(user, []).append(rule(verbs, resources, namespaces))

    def forbid(
        self,
        verbs: str | Iterable[str],
        resources: str = "*",
        namespaces: str = "*",
        user: str = "admin",
    ) -> None:
        """Take verbs away from a user, until `permit`."""
        with self._lock:
            self._bans.setdefault(user, []).append(rule(verbs, resources, namespaces))

    def permit(self, user: str = "admin") -> None:
        """Undo `forbid` for a user."""
        with self._lock:
            self._bans.pop(user, None)

    def authenticate(self, header: str) -> str:
        """Return the user of a request; ApiError 401."""
        kind, _, token = header.partition(" ")
        with self._lock:
            user = self._tokens.get(token.strip()) if kind.lower() == "bearer" else None
        if user is None:
            if self.required:
                raise status.unauthorized()
            return "system:anonymous"
        return user

    def authorize(self, user: str, verb: str, group: str, plural: str, namespace: str, name: str) -> None:
        """Raise ApiError 403 if the user may not do this."""
        with self._lock:
            grants = self._grants.get(user)
            bans = self._bans.get(user, [])
            allowed = grants is None or any(g.covers(verb, plural, namespace) for g in grants)
            if allowed and not any(each.covers(verb, plural, namespace) for each in bans):
                return
        raise status.forbidden(user, verb, group, plural, namespace, name)
