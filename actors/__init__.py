"""Real execution: device hosts, the runners behind them, and the Ray actors that address them."""

from __future__ import annotations
