"""Arrays and words to pictures and pages; knows no model."""

from .bidi import direction
from .generation_html import generation_fragment, generation_page, generation_png
from .lettering import Ruler, apply_fonts, fitted, language_of, slant, wrapped
from .page import Cell
from .plots import (
    BEYOND,
    Bars,
    Panel,
    Picture,
    bars_png,
    below,
    colour,
    colour_scale,
    encode_image,
    in_frame,
    is_tiny,
    layers_png,
    panels_png,
    shrunk,
)
from .sheets import blocks, sheet_png
from .sound import sound_png
from .text_html import Piece, TextCell, direction_of, latex, scale_of, shade, terminal, text_fragment, text_page
from .text_lines import TextRun, set_in_lines
from .token_strings import token_string
