"""Parts of an analysis; one that a method of compression does not have says why."""

from collections.abc import Callable
from typing import Any


class AbsentError(ValueError):
    """Raised where a compressor has nothing of a kind; says why, as half a sentence."""


def part(look: Callable[[], Any]) -> dict[str, Any]:
    """Return {"found": what `look` returns, "reason": None}.

    Or {"found": None, "reason": why there is none}.
    """
    try:
        return {"found": look(), "reason": None}
    except AbsentError as error:
        return {"found": None, "reason": str(error)}
