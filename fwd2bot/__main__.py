"""`python -m fwd2bot` is the command `fwd2bot`."""

from fwd2bot.commands import app

if __name__ == "__main__":
    app(prog_name="fwd2bot")
