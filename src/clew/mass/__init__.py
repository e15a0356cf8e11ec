"""Token mass: attention methods as one backward pass through any model, without blocks, prefix or readout."""

from .graph import SiteLink, links_of, site_graph
from .site import Site
from .stream_mass import MassGraph, StreamMass, propagate_mass, with_mass_graph
from .token_streams import Step, TokenStream, TokenStreams, with_token_streams

__all__ = [
    "MassGraph",
    "Site",
    "SiteLink",
    "Step",
    "StreamMass",
    "TokenStream",
    "TokenStreams",
    "links_of",
    "propagate_mass",
    "site_graph",
    "with_mass_graph",
    "with_token_streams",
]
