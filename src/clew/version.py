"""The version of clew, also that of the package (pyproject.toml)."""

__version__ = "0.1.0"
