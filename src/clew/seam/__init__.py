"""The one place that intercepts torch, and the twin of a model that is explained in its place."""

from .attention import BLOCK, Attention, FewRows, GradientProbe, Mix, Mixed, few_of
from .block_submodules import attend, autocast_to, layers_from, project, project_by_head, value_bias
from .capture import Capture, Leaf
from .changed_tokens import Change, ChangedTokens
from .custom_backward import Back, IdentityWithBackward, OperationWithBackward, RuledBack
from .fused_attention import FusedAttention
from .gradient_stops import no_gradient_error
from .interception import Seam, unseen
from .matrix_product import matrix_product
from .mixed_pass import MixedPass
from .module_hooks import activation_at, replace_output
from .multi_head import multi_head_attention
from .patch_convolution import from_patches, in_patches
from .precision import DoublePrecision
from .quantized import is_quantized, kernel_difference, never_repacked
from .readout import ReadoutRows, few_rows, readout_rows, take
from .row_sparse import input_gradient, linear_of, rows_read
from .skipped_blocks import SkippedBlocks, last_of_tokens
from .sparse_pass import SparsePass
from .torch_calls import by_position, tensors_in, torch_functions
from .torch_modes import callers_autocast, cpu_by_default, in_callers_device, in_callers_modes, isolated_modes
from .twin import freeze, original, owning_model, quantized_layers
