"""Places: how the entries of one stream are arranged, shown and erased.

A class for each arrangement: words, pixels in patches, packed patches, tiles and frames of videos, sound, entries of
tables and of any tensor. One more is a class with the two methods of `Places`.
"""

from .kinds import Entries, Pixels, Places, Words
from .pictures import Colours, Cutout, Filled, Packed, Pictures
from .sound import Spectrogram, Waveform
from .tiles import Part, Tiles, Video, by_ratio, by_size, by_words, single

__all__ = [
    "Colours", "Cutout", "Entries", "Filled", "Packed", "Part", "Pictures", "Pixels", "Places", "Spectrogram", "Tiles",
    "Video", "Waveform", "Words", "by_ratio", "by_size", "by_words", "single",
]  # fmt: skip
