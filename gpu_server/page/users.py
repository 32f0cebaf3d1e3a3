"""Users and tokens, for administrators: who may look, change, and administer."""

import asyncio
import time
from collections.abc import Callable

from nicegui import ui

from emcopilot.errors import ConfigError
from gpu_server.page.panels import box, text, tool
from gpu_server.page.wording import ago
from gpu_server.tables import SCOPES
from gpu_server.tokens import Identity, TokenRow, Tokens

_DAY_S = 24 * 3600.0
_LIFETIMES = {0: "until revoked", 1: "1 day", 30: "30 days", 365: "1 year"}


class UsersDialog:
    """Lists, makes and revokes tokens; a secret is shown once, when it is made."""

    def __init__(self, tokens: Callable[[], Tokens], who: Identity) -> None:
        self._tokens = tokens
        self._who = who
        with ui.dialog() as self._dialog, box("emc-dialog wide", "users"):
            ui.label("Users and tokens").classes("emc-dialog-title")
            self._rows = box("emc-users")
            with box("emc-new-user"):
                self._name = ui.input("Name").props("outlined dense maxlength=100")
                self._scope = ui.select(list(SCOPES), value="viewer", label="May")
                self._days = ui.select(_LIFETIMES, value=30, label="Valid")
                for field in (self._scope, self._days):
                    field.props("outlined dense options-dense")
                ui.button("Create", on_click=self._create).props("flat no-caps")
            self._secret = text("emc-secret", "secret")
            ui.label(
                "viewer looks; operator also rejects, calibrates, uploads and adapts; "
                "admin also makes tokens and deletes models"
            ).classes("emc-note")
            ui.button("Close", on_click=self._close).props("flat no-caps")

    async def open(self) -> None:
        """Show who there is."""
        self._secret.set_text("")
        await self._list()
        self._dialog.open()

    def _close(self) -> None:
        self._secret.set_text("")
        self._dialog.close()

    async def _list(self) -> None:
        rows = await asyncio.to_thread(self._tokens().rows)
        self._rows.clear()
        with self._rows:
            for row in reversed(rows):
                self._row(row)

    def _row(self, row: TokenRow) -> None:
        with box("emc-row"):
            ui.label(row.scope).classes("emc-scope")
            ui.label(row.name)
            ui.label(_standing(row, time.time())).classes("emc-note")
            if row.revoked_at is None:
                button = tool("Revoke", lambda: self._revoke(row))
                button.props["aria-label"] = f"revoke {row.name}"

    async def _create(self) -> None:
        name = (self._name.value or "").strip()
        if not name:
            ui.notify("give the token a name: whose or what it is for")
            return
        lifetime_s = self._days.value * _DAY_S if self._days.value else None

        def create() -> str:
            return self._tokens().create(
                name, str(self._scope.value), lifetime_s=lifetime_s, who=self._who.name
            )

        try:
            secret = await asyncio.to_thread(create)
        except ConfigError as error:
            ui.notify(str(error), type="warning")
            return
        self._name.set_value("")
        self._secret.set_text(secret)
        ui.notify("copy the token now: it cannot be shown again")
        await self._list()

    async def _revoke(self, row: TokenRow) -> None:
        if row.id == self._who.token_id:
            ui.notify("this is your own token: another administrator can revoke it")
            return
        await asyncio.to_thread(self._tokens().revoke, row.id, who=self._who.name)
        await self._list()


def _standing(row: TokenRow, now: float) -> str:
    if row.revoked_at is not None:
        return f"revoked {ago(now - row.revoked_at)}"
    if row.expires_at is None:
        return "valid until revoked"
    if row.expires_at < now:
        return f"expired {ago(now - row.expires_at)}"
    return f"valid for {(row.expires_at - now) / _DAY_S:.0f} days"
