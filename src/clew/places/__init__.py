"""Places: how the entries of one stream are arranged, shown and erased.

A class for each arrangement: words, pixels in patches, entries of tables and of any tensor. One more is a class with
the two methods of `Places`.
"""

from .kinds import Entries, Pixels, Places, Words

__all__ = ["Entries", "Pixels", "Places", "Words"]
