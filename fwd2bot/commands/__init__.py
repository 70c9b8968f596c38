"""Commands of `fwd2bot`: arguments, their defaults and their help; flows/ does the work."""

import sys

# importing them registers their commands, in the order of `fwd2bot --help`
from fwd2bot.commands import corpus, stages, stores, work  # noqa: F401
from fwd2bot.commands.app import app

COMMANDS = {"answer": "ask", "answer_corpus": "answer-corpus", "export_vllm": "export-vllm"}


def run(flow: str) -> None:
    """Run the command of a flow: `python -m flows.X …` does what `fwd2bot X …` does."""
    app([COMMANDS.get(flow, flow), *sys.argv[1:]], prog_name="fwd2bot")
