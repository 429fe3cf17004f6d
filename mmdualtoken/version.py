"""The version, in one place: setup.py reads it as text, users as ``mmdualtoken.__version__``."""

__version__ = "0.1.0"
