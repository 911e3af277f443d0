"""The version of this package, for the build too: no process has to look for the metadata of what is installed."""

__version__ = "0.1.0"
