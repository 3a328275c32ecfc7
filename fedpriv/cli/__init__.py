"""The command line. Imports neither TensorFlow nor any plug-in until a command needs it."""

from fedpriv.cli.main import main

__all__ = ["main"]
