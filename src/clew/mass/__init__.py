"""Token mass: attention methods as one backward pass through any model, without blocks, prefix or readout."""

from .graph import SiteLink, site_graph
from .site import Site
from .stream_mass import StreamMass, propagate_mass
from .token_streams import Step, TokenStream, TokenStreams, with_token_streams

__all__ = [
    "Site",
    "SiteLink",
    "Step",
    "StreamMass",
    "TokenStream",
    "TokenStreams",
    "propagate_mass",
    "site_graph",
    "with_token_streams",
]
