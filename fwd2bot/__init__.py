"""Fwd2Bot in Python: compress pictures into a few vectors, search them, ask them questions.

    from fwd2bot import Compressor, TokenStore

Both are imported on first use, and torch with them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fwd2bot.compressor import Compressor
    from fwd2bot.token_store import Hit, TokenStore

__all__ = ["Compressor", "Hit", "TokenStore"]


def __getattr__(name: str) -> Any:
    if name == "Compressor":
        from fwd2bot.compressor import Compressor

        return Compressor
    if name in ("Hit", "TokenStore"):
        from fwd2bot import token_store

        return getattr(token_store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
