"""A server's start: what the settings name must work before it is live."""

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from emcopilot.errors import ModelError
from gpu_server import app, promotion_rows
from gpu_server.config import SegmentSettings, ServerSettings
from gpu_server.inference_child import SlowStartError
from gpu_server.live_start import LiveStart
from gpu_server.registry import Registry


@pytest.fixture
def registry(lab, paper_children) -> Registry:
    made = Registry(lab.store)
    made.open()
    return made


def begin(registry: Registry, model: str) -> str:
    """Start the network as the server does, and stop it; return what was live."""
    settings = ServerSettings(
        data_dir=registry.root.parent, segment=SegmentSettings(model=model)
    )

    async def whole() -> str:
        async with AsyncExitStack() as stack:
            segmenter = await app._start_live(stack, registry, settings)
            assert segmenter.trouble is None
            return segmenter.model_id

    return asyncio.run(whole())


def test_a_directory_that_the_settings_name_is_live_once_it_passed_its_test(
    registry: Registry, papers
) -> None:
    assert begin(registry, str(papers["a"])) == "a"
    with registry.database.read() as connection:
        assert registry.live(connection) == "a"
        assert registry.find(connection, "a").tested_at is not None


def test_a_machine_that_is_too_busy_turns_the_server_to_no_other_model(
    registry: Registry, papers
) -> None:
    assert begin(registry, str(papers["a"])) == "a"
    start = LiveStart(registry, str(papers["a"]))
    choice = next(start.choices())
    assert choice.who == "server"
    with pytest.raises(SlowStartError):
        start.failed(choice, SlowStartError("not loaded within 300 s"))
    start.failed(choice, ModelError("damaged"))  # then the next one is tried


def test_one_that_says_the_same_of_every_pixel_stops_the_start_and_is_not_live(
    registry: Registry, papers
) -> None:
    card = json.loads((papers["a"] / "card.json").read_text())
    (papers["a"] / "card.json").write_text(json.dumps({**card, "above": 99}))
    with pytest.raises(ModelError, match="self-test"):
        begin(registry, str(papers["a"]))
    with registry.database.read() as connection:
        assert promotion_rows.history(connection) == []
