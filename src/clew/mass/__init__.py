"""Token mass: attention methods as one backward pass through any model, without blocks, prefix or readout."""

from .graph import SiteLink, site_graph
from .site import Site
from .stream_mass import StreamMass, propagate_mass

__all__ = ["Site", "SiteLink", "StreamMass", "propagate_mass", "site_graph"]
