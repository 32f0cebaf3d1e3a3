"""Users over REST, for administrators: tokens are listed, made and revoked."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends

from emcopilot.errors import ConfigError
from emcopilot.messages import Problem
from emcopilot.review_messages import NewUser, UserAnswer, UserRequest
from gpu_server.api.problems import PROBLEM_RESPONSES, ProblemError
from gpu_server.api.results import Id
from gpu_server.api.services import ServicesDep
from gpu_server.auth import Identity, require
from gpu_server.tokens import TokenRow, Tokens

router = APIRouter(prefix="/api/v1", tags=["users"], responses=PROBLEM_RESPONSES)

Admin = Annotated[Identity, Depends(require("admin"))]
_DAY_S = 24 * 3600.0


@router.get("/users")
def users(services: ServicesDep, _who: Admin) -> list[UserAnswer]:
    """List every token, the revoked too, oldest first; never a secret."""
    return [_answer(row) for row in Tokens(services.store.database).rows()]


@router.post("/users", status_code=201)
async def create(services: ServicesDep, who: Admin, request: UserRequest) -> NewUser:
    """Make a token; its secret is in this answer and nowhere else."""
    tokens = Tokens(services.store.database)
    lifetime_s = request.days and request.days * _DAY_S

    def make() -> tuple[str, TokenRow]:
        secret = tokens.create(
            request.name, request.scope, lifetime_s=lifetime_s, who=who.name
        )
        made = tokens.identify(secret)
        row = next(row for row in tokens.rows() if made and row.id == made.token_id)
        return secret, row

    try:
        secret, row = await asyncio.to_thread(make)
    except ConfigError as error:
        problem = Problem(title="Impossible name", status=422, detail=str(error))
        raise ProblemError(problem) from error
    return NewUser(**_answer(row).model_dump(), token=secret)


@router.post("/users/{token_id}/revoke")
async def revoke(services: ServicesDep, who: Admin, token_id: Id) -> UserAnswer:
    """End a token and its browser sessions at once; your own stays, lest none be left."""
    if token_id == who.token_id:
        raise ProblemError.not_found("your own token: another administrator revokes it")
    tokens = Tokens(services.store.database)
    if not await asyncio.to_thread(tokens.revoke, token_id, who=who.name):
        raise ProblemError.not_found(f"there is no token {token_id} that is alive")
    rows = await asyncio.to_thread(tokens.rows)
    return _answer(next(row for row in rows if row.id == token_id))


def _answer(row: TokenRow) -> UserAnswer:
    return UserAnswer(
        id=row.id,
        name=row.name,
        scope=row.scope,  # type: ignore[arg-type]
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
