"""clew: what did this transformer look at?

What `clew` exports is named in `__init__.pyi`, and imported when it is asked for.
"""

import sys

import lazy_loader

from .pickles import Moved
from .version import __version__ as __version__

sys.meta_path.append(Moved())
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
