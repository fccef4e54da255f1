"""What is left of an engine on Ray when it is closed: nothing."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import psutil
import pytest

from pearl.actors.engine import Engine
from pearl.actors.engine_settings import EngineSettings
from pearl.decoding.errors import PeerError
from pearl.decoding.settings import Settings
from tests.actors.family import connection, mentions
from tests.actors.pairs import SavedPair
from tests.actors.requests import PROMPTS


@pytest.mark.ray
@pytest.mark.asyncio
async def test_after_closing_nothing_is_left(text_pair: SavedPair) -> None:
    """No process, no file, no socket, no shared memory: so no other engine is in this file."""
    settings = EngineSettings(target=str(text_pair.target), draft=str(text_pair.draft), gpus=0)
    engine = await Engine.start(settings)
    folder = Path(cast("str", connection(engine).folder))
    port = engine._deployment.address.port
    generation = engine.generate(PROMPTS[0], Settings(schedule="ar", max_new_tokens=440))
    ours = [process for process in psutil.process_iter() if mentions(process, str(folder))]
    children = psutil.Process().children(recursive=True)
    # Python's own helper, which a test of another module may have started, stays to the end.
    ours += [child for child in children if not mentions(child, "multiprocessing")]
    await engine.close()

    _, alive = psutil.wait_procs(set(ours), timeout=30)
    assert ours
    assert not alive
    assert not folder.exists()  # noqa: ASYNC240 - there is nothing else to do meanwhile
    with pytest.raises(PeerError, match="start the engine again"):
        await generation.wait()
    await engine.close()  # twice is once
    connections = psutil.Process().net_connections()
    assert not [c for c in connections if c.raddr and c.raddr.port == port]
