"""What a system is called wherever systems are compared."""

from __future__ import annotations

from decoding.settings import ScheduleName, Settings


def name_of(settings: Settings) -> str:
    """A system in a few words."""
    if settings.schedule is ScheduleName.AR:
        return "AR"
    parts = [f"{settings.schedule.upper()} {settings.gamma}"]
    if settings.head_start:
        parts.append(f"head start {settings.head_start}")
    if settings.strict:
        parts.append("strict")
    return ", ".join(parts)
