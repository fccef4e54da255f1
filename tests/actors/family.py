"""The private cluster of an engine: its connection, and which processes name its folder."""

from __future__ import annotations

import psutil

from pearl.actors.cluster import RayDeployment
from pearl.actors.engine import Engine
from pearl.actors.membership import Connection


def connection(engine: Engine) -> Connection:
    deployment = engine._deployment
    assert isinstance(deployment, RayDeployment)
    return deployment.membership.connection


def mentions(process: psutil.Process, folder: str) -> bool:
    try:
        return any(folder in word for word in process.cmdline())
    except psutil.Error:
        return False
