"""How files are read and written: whole or not at all, within bounds."""

from .archives import BROKEN_TAR, BROKEN_ZIP, SMALL, read_zip_entry
from .atomic import (
    NO_ROOM,
    is_valid_filename,
    refuse_names,
    slug,
    temporary_folder,
    umask,
    write,
    write_all,
    write_errors,
)
from .json_files import ANY, Number, kind, mismatch, parsed, read_object
from .surrogates import refuse_halves, without_halves
