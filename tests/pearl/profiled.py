"""A profile in a file, for the verbs that read one."""

from __future__ import annotations

from pathlib import Path

from pearl.decoding.settings import Settings
from pearl.simulator import profiles
from pearl.simulator.costs import Constant
from pearl.simulator.forecast import SAME
from pearl.simulator.links import Network
from pearl.simulator.profiles import Luck, Profile
from pearl.simulator.world import Pair


def saved_profile(path: Path) -> Path:
    """A pair as `pearl profile` would have found it: 20 ms a pass, 4 ms a step, a ms a message."""
    measured = Profile(
        machine={},
        models={},
        settings=Settings(),
        pair=Pair(draft=Constant(0.004), target=Constant(0.02)),
        network=Network(control_s=0.001),
        levels=(SAME,),
        luck=Luck(
            rate=0.8,
            by_position=(0.8,),
            correlation=0.0,
            correlation_within=0.0,
            texts=("1101111101", "1110111111"),
        ),
        prompts=(10, 20),
        outputs=(100, 200),
    )
    profiles.write(path, measured)
    return path
