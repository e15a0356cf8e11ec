"""Places: how the entries of one stream are arranged, shown and erased.

A class for each arrangement: words, pixels in patches, columns of a table, entries of any tensor. One more is a class
with the two methods of `Places`.
"""

from .kinds import Columns, Entries, Pixels, Places, Words

__all__ = ["Columns", "Entries", "Pixels", "Places", "Words"]
