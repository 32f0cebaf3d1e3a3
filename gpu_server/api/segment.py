"""`POST /segment`: a file in, labels or measurements out, nothing kept."""

import asyncio
import shutil
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from emcopilot.errors import CalibrationError, StoreError
from emcopilot.messages import Problem, SegmentAnswer
from gpu_server.api.problems import PROBLEM_RESPONSES, ProblemError
from gpu_server.api.services import Services, ServicesDep
from gpu_server.auth import Identity, require
from gpu_server.distribution import psd_answer
from gpu_server.measure import MeasuredFrame
from gpu_server.particle_rows import Origin, as_rows, contract_columns

router = APIRouter(prefix="/api/v1", tags=["segment"], responses=PROBLEM_RESPONSES)

_EXTENSIONS = {"image/tiff": ".tif", "image/png": ".png", "image/jpeg": ".jpg"}
_BODY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary"}},
    }
}


@router.post(
    "/segment",
    response_model=SegmentAnswer,
    responses={200: {"content": {"image/tiff": _BODY}}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": _FORM,
                "application/octet-stream": _BODY,
            },
        }
    },
)
async def segment(
    services: ServicesDep,
    _who: Annotated[Identity, Depends(require("operator"))],
    request: Request,
    name: Annotated[str | None, Query(max_length=255)] = None,
    page: Annotated[int, Query(ge=0, le=10**6)] = 0,
    pixel_size_nm: Annotated[
        list[float] | None, Query(min_length=1, max_length=2)
    ] = None,
) -> Response:
    """Segment and measure one image; the server keeps neither the file nor the result.

    The file comes as a multipart form or as the raw body, whose type the query `name`
    (with its extension) tells. `pixel_size_nm`, once or as y and x, goes before what the
    file says. `Accept: image/tiff` asks for the labels instead of JSON.
    """
    size_nm = _pair(pixel_size_nm)
    with _part_file(services.scratch_dir) as part:
        sent_name = await _receive(services, request, part)
        told = _plain_name(name or sent_name or _name_by_type(request))
        measured = await services.one_shot.measure_upload(part, told, page, size_nm)
    if "image/tiff" in request.headers.get("accept", ""):
        data = await asyncio.to_thread(measured.labels_tiff)
        stem = PurePosixPath(told).stem.encode("ascii", "replace").decode()
        headers = {
            "Content-Disposition": f'attachment; filename="{stem}.labels.tif"',
            "X-EMC-Model": measured.model_id,
        }
        return Response(data, media_type="image/tiff", headers=headers)
    answer = await asyncio.to_thread(_answer, measured, told, page)
    return Response(answer.model_dump_json(), media_type="application/json")


async def _receive(services: Services, request: Request, part: Path) -> str | None:
    """Write the upload to `part`, counting what arrives; return the name it came with."""
    if shutil.disk_usage(part.parent).free < services.disk_reserve_bytes:
        raise StoreError("the server's disk is almost full; nothing was accepted")
    body = _counted(request, services.max_upload_bytes)
    kind = request.headers.get("content-type", "")
    if kind.startswith("multipart/form-data"):
        return await _receive_form(request, body, part)
    with part.open("wb") as target:
        async for chunk in body:
            await asyncio.to_thread(target.write, chunk)
        if target.tell() == 0:
            raise _no_file("the body is empty")
    return None


async def _receive_form(
    request: Request, body: AsyncGenerator[bytes, None], part: Path
) -> str | None:
    parser = MultiPartParser(request.headers, body, max_files=1, max_fields=8)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise _no_file(f"the form cannot be read: {error.message}") from error
    try:
        for value in form.values():
            if isinstance(value, UploadFile):
                with part.open("wb") as target:
                    await asyncio.to_thread(shutil.copyfileobj, value.file, target)
                return value.filename
    finally:
        await form.close()
    raise _no_file("the form holds no file")


async def _counted(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Pass the body on, up to `limit` bytes as they arrive: headers may lie."""
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise ProblemError(
                Problem(
                    title="Too large",
                    status=413,
                    detail="the file is larger than this server takes over REST",
                    got=f"more than {limit} bytes",
                    expected=f"at most {limit} bytes (http.max_upload_bytes)",
                    do="drop it into a watched folder instead",
                )
            )
        yield chunk


@contextmanager
def _part_file(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{uuid.uuid4().hex}.part"
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _answer(measured: MeasuredFrame, name: str, page: int) -> SegmentAnswer:
    frame, table = measured.frame, measured.particles
    height, width = frame.pixels.shape
    origin = Origin("", 0, None, measured.model_id, frame.pixel_size_source)
    nobody_rejected = np.zeros(len(table), np.bool_)
    rows = as_rows(contract_columns(table, origin, nobody_rejected))
    return SegmentAnswer(
        name=name,
        page=page,
        height=height,
        width=width,
        pixel_size_nm=frame.pixel_size_nm,
        pixel_size_source=frame.pixel_size_source,
        model_id=measured.model_id,
        infer_s=measured.infer_s,
        confidence=measured.confidence,
        doubtful=measured.doubtful,
        doubtful_share=measured.doubtful_share,
        # Nothing is stored, so there is no frame to name.
        particles=[{**row, "frame": None} for row in rows],
        psd=psd_answer(
            measured.psd,
            reason=None if frame.pixel_size_nm else "the pixel size is unknown",
            frames=1,
            excluded_border=int(np.count_nonzero(table.touches_border)),
            rejected=0,
            event=0,
        ),
        notes=list(frame.notes),
    )


def _pair(pixel_size_nm: list[float] | None) -> tuple[float, float] | None:
    if pixel_size_nm is None:
        return None
    for edge_nm in pixel_size_nm:
        if not (np.isfinite(edge_nm) and edge_nm > 0):
            raise CalibrationError(
                f"pixel size must be positive and finite, got {edge_nm} nm"
            )
    return pixel_size_nm[0], pixel_size_nm[-1]


def _plain_name(name: str) -> str:
    """Drop folders of any system: a name from outside is never a path."""
    return PureWindowsPath(PurePosixPath(name).name).name or "upload"


def _name_by_type(request: Request) -> str:
    header = Message()
    header["content-disposition"] = request.headers.get("content-disposition", "")
    sent = header.get_filename()
    if sent:
        return sent
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    return f"upload{_EXTENSIONS.get(kind, '')}"


def _no_file(detail: str) -> ProblemError:
    return ProblemError(
        Problem(
            title="No file",
            status=422,
            detail=detail,
            expected="one image, as a multipart file or as the body",
            do="curl -F file=@frame.tif .../api/v1/segment",
        )
    )
