"""`python -m s2pipe` is the command `s2pipe`."""

from s2pipe.cli.app import app

if __name__ == "__main__":
    app(prog_name="s2pipe")
