"""Results: scores with their checks, how they are kept, compared and shown."""

from .base import STREAMS, Attribution
from .comparison import compare
from .generation import GenerationAttribution
from .image import ImageAttribution
from .pair import PairAttribution
from .pictures import Frame, PicturesAttribution, padded
from .ranges import normalized, normalized_pixels, require_range
from .saved_fields import SavedFields
from .sound import SoundAttribution
from .streams import StreamsAttribution
from .tensor import TensorAttribution
from .text import TextAttribution
