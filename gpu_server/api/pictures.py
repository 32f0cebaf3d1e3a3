"""Frames as images: what was acquired, what was found, and both together."""

import asyncio
from pathlib import PurePosixPath
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import Response
from numpy.typing import NDArray

from emcopilot.label_image import decode_labels
from emcopilot.outlines import outlines
from gpu_server.api.problems import PROBLEM_RESPONSES
from gpu_server.api.results import Id
from gpu_server.api.services import (
    Services,
    ServicesDep,
    frame_with_result,
    known_frame,
)
from gpu_server.particle_rows import is_rejected, read_labels, read_particles
from gpu_server.picture import MAX_SHOWN_PX, overlay, picture, png
from gpu_server.queries import StoredFrame

router = APIRouter(prefix="/api/v1", tags=["pictures"], responses=PROBLEM_RESPONSES)

MaxSide = Annotated[int, Query(ge=64, le=16384)]
# A frame's pixels never change; its outlines do, with every rejection.
_FOR_A_DAY = {"Cache-Control": "private, max-age=86400, immutable"}


@router.get("/frames/{frame_id}/image.png", response_class=Response)
async def image(
    services: ServicesDep, frame_id: Id, max_px: MaxSide = MAX_SHOWN_PX
) -> Response:
    """Return the frame for looking at, 8 bits; larger ones reduced by a whole factor."""
    found = await asyncio.to_thread(_frame, services, frame_id)
    pixels = await _pixels(services, found)
    data = await asyncio.to_thread(_image_png, pixels, max_px)
    return Response(data, media_type="image/png", headers=_FOR_A_DAY)


@router.get("/frames/{frame_id}/overlay.png", response_class=Response)
async def frame_overlay(
    services: ServicesDep, frame_id: Id, max_px: MaxSide = MAX_SHOWN_PX
) -> Response:
    """Return the frame with its outlines: cyan counts, grey is cut, red is rejected."""
    found = await asyncio.to_thread(_frame_with_result, services, frame_id)
    pixels = await _pixels(services, found)
    data = await asyncio.to_thread(_overlay_png, services, found, pixels, max_px)
    return Response(data, media_type="image/png")


@router.get("/frames/{frame_id}/labels.tif", response_class=Response)
def labels(services: ServicesDep, frame_id: Id) -> Response:
    """Return the instances at native size; 0 is background, others are labels."""
    with services.store.read() as connection:
        found = frame_with_result(connection, frame_id)
        data = read_labels(connection, found)
    headers = {
        "Content-Disposition": f'attachment; filename="frame_{frame_id}.labels.tif"'
    }
    return Response(data, media_type="image/tiff", headers=headers)


def _frame(services: Services, frame_id: int) -> StoredFrame:
    with services.store.read() as connection:
        return known_frame(connection, frame_id)


def _frame_with_result(services: Services, frame_id: int) -> StoredFrame:
    with services.store.read() as connection:
        return frame_with_result(connection, frame_id)


async def _pixels(services: Services, found: StoredFrame) -> NDArray[np.generic]:
    name = PurePosixPath(found.source_key).name
    path = services.store.blob_path(found.sha256)
    return (await services.decoder.decode(path, name, found.page)).pixels


def _image_png(pixels: NDArray[np.generic], max_px: int) -> bytes:
    return png(picture(pixels, _factor(pixels, max_px)))


def _overlay_png(
    services: Services,
    found: StoredFrame,
    pixels: NDArray[np.generic],
    max_px: int,
) -> bytes:
    with services.store.read() as connection:
        drawn = decode_labels(read_labels(connection, found))
        table = read_particles(connection, found)
    factor = _factor(pixels, max_px)
    traced = outlines(drawn, scale=1.0 / factor)
    return png(
        overlay(
            picture(pixels, factor),
            [traced.polygon(label) for label in table.label],
            touches_border=table.touches_border,
            rejected=is_rejected(found, len(table)),
        )
    )


def _factor(pixels: NDArray[np.generic], max_px: int) -> int:
    return max(1, -(-max(pixels.shape) // max_px))
