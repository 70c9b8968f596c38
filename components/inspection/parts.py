"""An analysis in parts, any of which a method of compression may not have: then the part says why."""

from collections.abc import Callable
from typing import Any


class AbsentError(ValueError):
    """A compressor has nothing of this kind; the message says why, as half a sentence."""


def part(look: Callable[[], Any]) -> dict[str, Any]:
    """{"found": what `look` returns, "reason": None}, or {"found": None, "reason": why there is none}."""
    try:
        return {"found": look(), "reason": None}
    except AbsentError as error:
        return {"found": None, "reason": str(error)}
