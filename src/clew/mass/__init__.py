"""Token mass: attention methods as one backward pass through any model, without blocks, prefix or readout."""

from .site import Site
from .stream_mass import StreamMass, propagate_mass

__all__ = ["Site", "StreamMass", "propagate_mass"]
