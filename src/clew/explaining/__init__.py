"""From a call to a result: inputs prepared, a method run, and what came out put in order."""

from .batches import explain_in_batches
from .explain import subject_of
from .generation import explain_generation, explained_in_steps
from .pair_model import LoadedPair, encode_features
from .prepare import PreparedBatch, unwrap
from .prepare_text import longest_text, position_limit
from .side_inputs import SideInputs
from .sources import Sources
