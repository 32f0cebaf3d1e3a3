"""`POST /uploads`: image files into a session, stored and measured like an agent's."""

import asyncio
import hashlib
import os
import shutil
import time
import unicodedata
import uuid
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from emcopilot.durable import sync
from emcopilot.errors import StoreError
from emcopilot.messages import Problem
from emcopilot.review_messages import UploadAnswer
from emcopilot.wire import checked_source_key
from gpu_server.api.problems import PROBLEM_RESPONSES, ProblemError
from gpu_server.api.services import Services, ServicesDep
from gpu_server.auth import Identity, require
from gpu_server.events import note

router = APIRouter(prefix="/api/v1", tags=["uploads"], responses=PROBLEM_RESPONSES)

_BODY = {"schema": {"type": "string", "format": "binary"}}
_CONTENT = {"required": True, "content": {"application/octet-stream": _BODY}}


@router.post("/uploads", openapi_extra={"requestBody": _CONTENT})
async def upload(
    services: ServicesDep,
    who: Annotated[Identity, Depends(require("operator"))],
    request: Request,
    session: Annotated[str, Query(min_length=1, max_length=200)],
    name: Annotated[str, Query(min_length=1, max_length=255)],
) -> UploadAnswer:
    """Store one image file, the raw body, in a session of uploads; its frames are queued.

    The answer comes once the file is on disk and committed. A file sent twice is meant twice:
    it becomes two frames.
    """
    plain_session, plain_name = _plain(session), _plain(name)
    part = services.scratch_dir / f"{uuid.uuid4().hex}.part"
    try:
        size, sha256 = await _receive(services, request, part)

        def keep() -> int:
            _keep(part, services.store.blob_path(sha256))
            return services.store.record_upload(
                plain_session, plain_name, sha256=sha256, size=size
            )

        file_id = await asyncio.to_thread(keep)
    finally:
        part.unlink(missing_ok=True)
    await asyncio.to_thread(_note, services, who.name, file_id, plain_name)
    services.ring()
    services.publisher.announce()
    return UploadAnswer(
        file_id=file_id,
        session=plain_session,
        name=plain_name,
        size=size,
        sha256=sha256,
    )


async def _receive(services: Services, request: Request, part: Path) -> tuple[int, str]:
    """Write the body to `part`, counted as it arrives; return its size and hash."""
    part.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(part.parent).free < services.disk_reserve_bytes:
        raise StoreError("the server's disk is almost full; nothing was accepted")
    digest, size = hashlib.sha256(), 0
    try:
        with part.open("wb") as target:
            async for chunk in request.stream():
                size += len(chunk)
                if size > services.max_upload_bytes:
                    raise _too_large(services.max_upload_bytes)
                digest.update(chunk)
                await asyncio.to_thread(target.write, chunk)
            target.flush()
            await asyncio.to_thread(os.fsync, target.fileno())
    except OSError as error:
        raise StoreError(f"the disk refused the file: {error.strerror}") from error
    if size == 0:
        raise _refused("the body is empty", "send the file's bytes as the body")
    return size, digest.hexdigest()


def _keep(part: Path, blob: Path) -> None:
    """Give whole bytes their place; they are on disk, name and folders too, on return."""
    try:
        blob.parent.mkdir(parents=True, exist_ok=True)
        part.replace(blob)
        for folder in (blob.parent, blob.parents[1], blob.parents[2]):
            sync(folder)
    except OSError as error:
        raise StoreError(f"the disk refused the file: {error.strerror}") from error


def _plain(name: str) -> str:
    """Return a name that can be one part of a source key; never a path."""
    text = unicodedata.normalize("NFC", name).replace("\\", "/").strip("/ ")
    text = text.rpartition("/")[2]
    if text in {"", ".", ".."}:
        raise _refused(f"{name!r} is no name", "give a file and session a plain name")
    try:
        return checked_source_key(text)
    except ValueError as error:
        raise _refused(str(error), "choose another name") from error


def _note(services: Services, who: str, file_id: int, name: str) -> None:
    store = services.store
    with store.database.write() as connection:
        at = time.time()
        note(connection, who, "upload", f"file {file_id}", at=at, detail={"name": name})


def _too_large(limit: int) -> ProblemError:
    return ProblemError(
        Problem(
            title="Too large",
            status=413,
            detail="the file is larger than this server takes over REST",
            got=f"more than {limit} bytes",
            expected=f"at most {limit} bytes (http.max_upload_bytes)",
            do="drop it into a watched folder instead",
        )
    )


def _refused(detail: str, do: str) -> ProblemError:
    return ProblemError(Problem(title="Not stored", status=422, detail=detail, do=do))
