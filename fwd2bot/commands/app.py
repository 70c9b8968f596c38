"""The command `fwd2bot`, and the way from a declared command to its flow.

A declaration names the arguments of a command and nothing else, so that `--help` and completion
import neither torch nor Ray. docs/decisions/0039.
"""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from inspect import signature
from typing import ParamSpec

import typer

from flows.running.endings import ending

EPILOG = (
    "Exit status: 0 done; 1 failed, the last line says why and what to do; 2 wrong usage; "
    "130 interrupted (Ctrl-C); 141 nobody reads the output any more; 143 ended by SIGTERM. "
    "What is finished is kept: give the same command again."
)

Arguments = ParamSpec("Arguments")

app = typer.Typer(
    help="Compress pictures into a few vectors; search them and ask them questions.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # `ending` says what went wrong
)


def forwards(
    flow: str, function: str = "main"
) -> Callable[[Callable[Arguments, None]], Callable[Arguments, None]]:
    """Give a declared command its body: a function of flows/`flow`.py with the same arguments.

    The flow is imported when the command runs.
    """

    def fill_in(declared: Callable[Arguments, None]) -> Callable[Arguments, None]:
        @wraps(declared)
        def command(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
            # with the declared defaults: functions of flows/ have none
            given = signature(declared).bind(*args, **kwargs)
            given.apply_defaults()

            with ending(flow):
                getattr(import_module(f"flows.{flow}"), function)(**given.arguments)

        return command

    return fill_in
