"""Where explained input enters a model, found by watching one pass: no name of a class and nothing of a model's inside.

A *stream* is an argument of floats as it is, or of token numbers where they are looked up; or, on demand, what a module
of the model puts out (a *station*).
"""

from .entrance import ABOUT_INPUT, Entrance, Entry, Give, station
from .frontier import Enough, Frontier, Station
from .model_call import ModelCall
from .provenance import Provenance

__all__ = [
    "ABOUT_INPUT",
    "Enough",
    "Entrance",
    "Entry",
    "Frontier",
    "Give",
    "ModelCall",
    "Provenance",
    "Station",
    "station",
]
