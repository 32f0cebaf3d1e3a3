"""Tokens and the browser sessions opened with them; only hashes are ever stored.

A token is 256 random bits, shown once. A browser trades it, or a one-time code, for an opaque
cookie; revoking the token ends its browser sessions with it. Every answer is read from the
database, so that `emcopilot tokens revoke` in another process acts at once.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from emcopilot.errors import ConfigError
from gpu_server.database import Database
from gpu_server.events import note
from gpu_server.promotion_rows import SERVER, SETTINGS
from gpu_server.tables import SCOPES, login_codes, tokens, web_sessions

PREFIX = "emct_"
"""Marks a secret of ours for people and for scanners that look for leaked ones."""

BROWSER_SESSION_S = 7 * 24 * 3600.0
LOGIN_CODE_S = 600.0
_RESERVED = (SERVER, SETTINGS)
"""What such a token did would be taken for the server's own doing."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a request speaks for."""

    name: str
    scope: str
    """viewer | operator | admin"""
    token_id: int
    web_session_id: int | None = None
    """Set when a browser's cookie was shown, not the token itself."""

    def allows(self, scope: str) -> bool:
        """Whether this identity may do what `scope` may."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token as an administrator sees it: everything but the secret."""

    id: int
    name: str
    scope: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None


class Tokens:
    """Makes, checks and revokes tokens and browser sessions.

    Parameters
    ----------
    database : Database
    wall : callable
        Clock for expiry, Unix seconds.
    """

    def __init__(
        self, database: Database, wall: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._wall = wall

    def create(
        self, name: str, scope: str, *, lifetime_s: float | None = None, who: str
    ) -> str:
        """Make a token and return its secret, which cannot be shown again.

        Raises
        ------
        ConfigError
            If the server signs with that name itself.
        """
        secret = PREFIX + secrets.token_urlsafe(32)
        with self._database.write() as connection:
            self._insert(
                connection, name, scope, secret, lifetime_s=lifetime_s, who=who
            )
        return secret

    def create_first(self) -> str | None:
        """Make the administrator's token if there never was any token."""
        secret = PREFIX + secrets.token_urlsafe(32)
        with self._database.write() as connection:
            if connection.execute(sa.select(tokens.c.id).limit(1)).first():
                return None
            self._insert(connection, "first admin", "admin", secret, who="console")
        return secret

    def rows(self) -> list[TokenRow]:
        """List every token, the revoked too, oldest first."""
        columns = [tokens.c[field] for field in TokenRow.__dataclass_fields__]
        with self._database.read() as connection:
            return [
                TokenRow(*row)
                for row in connection.execute(sa.select(*columns).order_by(tokens.c.id))
            ]

    def revoke(self, token_id: int, *, who: str) -> bool:
        """End a token and its browser sessions; say whether it was alive."""
        with self._database.write() as connection:
            ended = connection.execute(
                tokens.update()
                .where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None))
                .values(revoked_at=self._wall())
            ).rowcount
            for table in (web_sessions, login_codes):
                connection.execute(table.delete().where(table.c.token_id == token_id))
            if ended:
                note(connection, who, "revoke", f"token {token_id}", at=self._wall())
        return bool(ended)

    def identify(self, secret: str) -> Identity | None:
        """Return whose token this is, unless unknown, expired or revoked."""
        query = self._alive().where(tokens.c.sha256 == _hash(secret))
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return Identity(row.name, row.scope, row.id) if row else None

    def identify_browser(self, cookie: str) -> Identity | None:
        """Return whose browser session this is, unless it or its token ended."""
        return self._browser(web_sessions.c.sha256 == _hash(cookie))

    def is_valid(self, identity: Identity) -> bool:
        """Whether an identity still holds: for connections that stay open."""
        if identity.web_session_id is not None:
            return (
                self._browser(web_sessions.c.id == identity.web_session_id) is not None
            )
        query = self._alive().where(tokens.c.id == identity.token_id)
        with self._database.read() as connection:
            return connection.execute(query).first() is not None

    def log_in(self, secret: str) -> str | None:
        """Trade a token or a one-time code for a new cookie; None if it is no good."""
        now = self._wall()
        with self._database.write() as connection:
            token_id = connection.execute(
                self._alive().where(tokens.c.sha256 == _hash(secret))
            ).scalar() or self._spend_code(connection, secret)
            if token_id is None:
                return None
            connection.execute(
                web_sessions.delete().where(web_sessions.c.expires_at < now)
            )
            cookie = secrets.token_urlsafe(32)
            connection.execute(
                web_sessions.insert().values(
                    sha256=_hash(cookie),
                    token_id=token_id,
                    created_at=now,
                    expires_at=now + BROWSER_SESSION_S,
                )
            )
        return cookie

    def log_out(self, cookie: str) -> None:
        """End one browser session."""
        with self._database.write() as connection:
            connection.execute(
                web_sessions.delete().where(web_sessions.c.sha256 == _hash(cookie))
            )

    def new_login_code(
        self, scope: str = "operator", *, name: str = "login code"
    ) -> str:
        """Make a code that logs one browser in, once, within ten minutes.

        It stands for a token of its own, whose secret nobody knows: the browser session it
        opens can be listed and revoked like any other.
        """
        code = secrets.token_urlsafe(16)
        lifetime_s = LOGIN_CODE_S + BROWSER_SESSION_S
        with self._database.write() as connection:
            token_id = self._insert(
                connection,
                name,
                scope,
                secrets.token_urlsafe(32),
                lifetime_s=lifetime_s,
                who="console",
            )
            connection.execute(
                login_codes.insert().values(
                    sha256=_hash(code),
                    token_id=token_id,
                    expires_at=self._wall() + LOGIN_CODE_S,
                )
            )
        return code

    def _insert(
        self,
        connection: sa.Connection,
        name: str,
        scope: str,
        secret: str,
        *,
        lifetime_s: float | None = None,
        who: str,
    ) -> int:
        if name.strip() in _RESERVED:
            raise ConfigError(
                f"a token cannot be named {name.strip()!r}: the server signs with that name "
                "itself; name it for a person or a program"
            )
        now = self._wall()
        token_id = connection.execute(
            tokens.insert()
            .values(
                name=name,
                scope=scope,
                sha256=_hash(secret),
                created_at=now,
                expires_at=None if lifetime_s is None else now + lifetime_s,
            )
            .returning(tokens.c.id)
        ).scalar_one()
        detail = {"name": name, "scope": scope}
        note(connection, who, "create", f"token {token_id}", at=now, detail=detail)
        return token_id

    def _spend_code(self, connection: sa.Connection, code: str) -> int | None:
        return connection.execute(
            login_codes.delete()
            .where(
                login_codes.c.sha256 == _hash(code),
                login_codes.c.expires_at >= self._wall(),
            )
            .returning(login_codes.c.token_id)
        ).scalar()

    def _alive(self) -> "sa.Select[int, str, str]":
        return sa.select(tokens.c.id, tokens.c.name, tokens.c.scope).where(
            tokens.c.revoked_at.is_(None),
            sa.or_(tokens.c.expires_at.is_(None), tokens.c.expires_at >= self._wall()),
        )

    def _browser(self, which: sa.ColumnElement[bool]) -> Identity | None:
        query = (
            self._alive()
            .add_columns(web_sessions.c.id.label("web_session_id"))
            .join(web_sessions, web_sessions.c.token_id == tokens.c.id)
            .where(which, web_sessions.c.expires_at >= self._wall())
        )
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return (
            Identity(row.name, row.scope, row.id, row.web_session_id) if row else None
        )


def _hash(secret: str) -> str:
    # Plain SHA-256 is right for 256 random bits; slow hashes are for passwords people choose.
    return hashlib.sha256(secret.encode()).hexdigest()
