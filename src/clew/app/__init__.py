"""The web page: `clew ui`."""
