"""A twin of a model: other modules with the same weights, so that nothing done to explain a model is seen by others.

What an explanation needs (hooks, weights that are left out of the graph, kernels that the seam can see, no cache) is
changed in a twin, which belongs to one call and is dropped with it. The model itself is only read. So others may call
it, train it, decode with it or explain it meanwhile, and whatever interrupts, there is nothing to be put back.
"""

from __future__ import annotations

import copy
import functools
import types
import weakref
from collections import OrderedDict
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..traversal import modules_of
from .quantized import apart, float_forward, is_quantized

_ORIGINAL = "_twin_of"
_WITHOUT_CUDNN = "_given_with_cudnn"  # set on the functions that stand for recurrent layers
_QUANTIZED = "_quantized_layers"  # how many a twin has
_WANTED = "wanted_gradient"  # set on weights whose originals ask for a gradient
# What every module has: nothing in it refers to other modules, but for its children.
_COMMON = frozenset(vars(nn.Module())) | {_ORIGINAL}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# The numbers of hooks that are called in another way. No two hooks have one number, so that modules may share these.
_HOOK_NUMBERS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")
_SWITCHES = ("grad_checkpointing", "gradient_checkpointing")
_PLAIN = frozenset({int, float, bool, str, bytes, type(None), type, torch.Size, torch.dtype, torch.device})


def twin(model: nn.Module, *, as_is: bool = False, frozen: bool = True) -> nn.Module:
    """Modules of the same classes, attributes and hooks, which share all weights. `frozen` weights are left out of any
    graph; others are those of the model, for passes that make none.

    Also changed: checkpointing is off, whose recomputation the seam would not see; what was compiled runs as it was
    written; attention packages that bypass torch functions give way to SDPA, no cache is kept; quantised layers compute
    with floats. `as_is` changes nothing of all this: a twin that is called as the model is, for layers that change
    when they are called.
    """
    return _Twins(as_is, frozen).of(model)


def freeze(model: nn.Module) -> None:
    """Leave the weights of a twin out of any graph from here on."""
    twins = _Twins(as_is=False, frozen=True)
    for part in modules_of(model):
        own = vars(part)
        for name in ("_parameters", "_buffers"):
            if held := own[name]:
                own[name] = {k: t if t is None else twins.tensor(t) for k, t in held.items()}


def original(module: nn.Module) -> nn.Module:
    """The module that a module of a twin stands for; any other module itself."""
    return vars(module).get(_ORIGINAL, module)


def quantized_layers(model: nn.Module) -> int:
    """How many layers of a model, or of a twin, have packed weights."""
    known = vars(model).get(_QUANTIZED)
    return sum(map(is_quantized, modules_of(model))) if known is None else known


def owning_model(model: nn.Module) -> nn.Module:
    """The user's model: towers of an image–text model are made anew for each call, and share it."""
    model = original(model)
    name = getattr(type(model), "lends", None)
    return model if name is None else original(getattr(model, name))


def wanted_gradient(weight: Tensor) -> bool:
    """Whether a weight asks for its gradient in the model itself."""
    return weight.requires_grad or getattr(weight, _WANTED, False)


class _Twins:
    """The modules of one model and what stands for them."""

    def __init__(self, as_is: bool, frozen: bool) -> None:
        self._as_is, self._frozen = as_is, frozen
        self._made: dict[int, Any] = {}  # modules, tensors, functions and configurations, by the id of the original
        self._new: list[nn.Module] = []
        self._numbers = [(name, OrderedDict[int, bool]()) for name in _HOOK_NUMBERS]

    def of(self, model: nn.Module) -> nn.Module:
        made = self._module(model)
        if not self._as_is:
            self._configure()
        quantized = 0
        for new in self._new:
            own = vars(new)
            for name in [name for name in own if name not in _COMMON]:
                if type(value := own[name]) not in _PLAIN:
                    own[name] = self._instead(value)
            if own["_parameters"] and is_quantized(new):
                quantized += 1
                (self._set_apart if self._as_is else _in_floats)(new)
            if isinstance(new, nn.RNNBase):
                _without_cudnn(new, as_is=self._as_is)
        if self._new:
            vars(made)[_QUANTIZED] = quantized
        return made

    def _module(self, module: nn.Module) -> nn.Module:
        found = self._made.get(id(module))
        if found is not None:
            return found
        old = vars(module)
        if isinstance(module, torch.jit.ScriptModule):  # its insides are not Python's
            self._made[id(module)] = module
            return module
        if "_orig_mod" in old["_modules"] and not self._as_is:  # what `torch.compile` wraps
            self._made[id(module)] = found = self._module(old["_modules"]["_orig_mod"])
            return found
        new: nn.Module = object.__new__(type(module))
        own = old.copy()
        object.__setattr__(new, "__dict__", own)
        self._made[id(module)] = new
        self._new.append(new)
        own.setdefault(_ORIGINAL, module)
        for name in _HOOKS:
            own[name] = hooks.copy() if (hooks := own[name]) else OrderedDict()
        for name, shared in self._numbers:
            own[name] = numbers.copy() if (numbers := own.get(name)) else shared
        for name in ("_parameters", "_buffers"):
            held = own[name]
            own[name] = {k: t if t is None else self.tensor(t) for k, t in held.items()} if held else {}
        children = own["_modules"]
        own["_modules"] = {k: m if m is None else self._module(m) for k, m in children.items()} if children else {}
        if not self._as_is:
            for name in _SWITCHES:
                if old.get(name):
                    own[name] = False
            if old.get("_compiled_call_impl") is not None:
                own["_compiled_call_impl"] = None
        return new

    def tensor(self, tensor: Tensor) -> Tensor:
        """The same numbers, in the same memory, outside of any graph."""
        wanted = tensor.requires_grad and self._frozen
        if self._as_is or not (wanted or tensor.is_inference()):
            return tensor
        found = self._made.get(id(tensor))
        if found is None:
            found = _ordinary(tensor) if tensor.is_inference() else tensor
            if type(tensor) is nn.Parameter:
                found = torch.Tensor._make_subclass(nn.Parameter, found, False)
            else:
                found = nn.Parameter(found.detach(), requires_grad=False)
            if wanted:
                setattr(found, _WANTED, True)
            self._made[id(tensor)] = found
        return found

    def _instead(self, value: Any) -> Any:
        """What stands for an attribute: modules, weights and whatever is bound to them, in lists and functions too."""
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, types.MethodType):
            owner = self._instead(value.__self__)
            return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
        if isinstance(value, functools.partial):
            return self._partial(cast("functools.partial[Any]", value))
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if type(value) in (list, tuple):
            if _PLAIN.issuperset(map(type, value)):
                return value
            items = [self._instead(v) for v in value]
            return value if all(map(_same, items, value)) else type(value)(items)
        if type(value) in (dict, OrderedDict):
            found = {k: self._instead(v) for k, v in value.items()}
            return value if all(map(_same, found.values(), value.values())) else type(value)(found)
        return value

    def _partial(self, value: functools.partial[Any]) -> Any:
        parts: tuple[Any, ...] = (value.func, value.args, value.keywords)
        func, args, kwargs = instead = [self._instead(part) for part in parts]
        if all(map(_same, instead, parts)):
            return value
        found = functools.partial(func, *args, **kwargs)
        vars(found).update(vars(value))
        return found

    def _function(self, value: types.FunctionType) -> Any:
        """A function that was set on a module: not compiled, and with what it closes over."""
        written = getattr(value, "_torchdynamo_orig_callable", None)
        if written is not None and not self._as_is:
            return self._instead(written)
        if not value.__closure__:
            return value
        self._made[id(value)] = value  # which may close over itself
        try:
            inside = [c.cell_contents for c in value.__closure__]
        except ValueError:  # a cell that is not filled yet
            return value
        found = [self._instead(v) for v in inside]
        if all(map(_same, found, inside)):
            return value
        cells = tuple(types.CellType(v) for v in found)
        made = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
        made.__kwdefaults__ = value.__kwdefaults__
        vars(made).update(vars(value))
        self._made[id(value)] = made
        return made

    def _set_apart(self, new: nn.Module) -> None:
        """Let a layer of the twin have what a plain call would change."""
        own = vars(new)
        own["_parameters"]["weight"] = weight = apart(own["_parameters"]["weight"])
        if own.get("quant_state") is not None:
            own["quant_state"] = weight.quant_state
        if own.get("state") is not None:
            own["state"] = copy.copy(own["state"])

    def _configure(self) -> None:
        """Attention packages to SDPA, mixtures of experts in torch functions, no cache: in copies of configurations."""
        configs = {id(c): c for new in self._new if (c := vars(new).get("config")) is not None}
        changes = {key: _changes(config) for key, config in configs.items()}
        if not any(changes.values()):
            return
        for key, config in configs.items():
            found = self._config(config)
            for name, value in changes[key].items():
                setattr(found, name, value)

    def _config(self, config: Any) -> Any:
        """A configuration with its parts: what a whole model's is told, those of its parts may be told too."""
        if id(config) not in self._made:
            self._made[id(config)] = new = copy.copy(config)
            for name, value in vars(new).items():
                if any(c.__name__.lower() == "pretrainedconfig" for c in type(value).__mro__):
                    vars(new)[name] = self._config(value)
        return self._made[id(config)]


# Kernels that are no torch functions of their parts; functions that users registered are.
_PACKAGES = ("flash_attention", "flex_attention", "paged|", "kernels-community/")


def _changes(config: Any) -> dict[str, Any]:
    """What has to be told a configuration."""
    found: dict[str, Any] = {}
    kernel, experts = getattr(config, "_attn_implementation", None), getattr(config, "_experts_implementation", None)
    if isinstance(kernel, str) and (kernel.startswith(_PACKAGES) or "/" in kernel):
        found["_attn_implementation"] = "sdpa"
    if isinstance(experts, str) and experts != "eager":
        found["_experts_implementation"] = "eager"
    # Decoders of some encoders read their last token alone where there is a cache, so that it is no mere saving there.
    if getattr(config, "use_cache", False) and not getattr(config, "is_encoder_decoder", False):
        found["use_cache"] = False
    return found


def _in_floats(new: nn.Module) -> None:
    """A quantised layer of a twin computes with floats, inside what accelerate wrapped around it, where it did."""
    own = vars(new)
    own["_old_forward" if "_old_forward" in own else "forward"] = float_forward(new)


def _without_cudnn(new: nn.RNNBase, *, as_is: bool) -> None:
    """A recurrent layer of a twin runs by torch's own kernels: cuDNN's have no backward pass in evaluation mode."""
    own, layer_of = vars(new), weakref.ref(new)  # of which the function will be a part
    inside = "_old_forward" if "_old_forward" in own else "forward"
    given: Any = own.pop(inside, None)
    given = vars(given)[_WITHOUT_CUDNN] if hasattr(given, _WITHOUT_CUDNN) else given  # of a twin of a twin
    if given is not None:
        own[inside] = given
    if as_is or not _may_run_by_cudnn(new):
        return

    def forward(*args: Any, **kwargs: Any) -> Any:
        layer: Any = layer_of()
        call = functools.partial(type(layer).forward, layer) if given is None else given
        before = torch.backends.cudnn.enabled
        torch.backends.cudnn.enabled = False
        try:
            return call(*args, **kwargs)
        finally:
            torch.backends.cudnn.enabled = before

    setattr(forward, _WITHOUT_CUDNN, given)
    own[inside] = forward


def _may_run_by_cudnn(layer: nn.Module) -> bool:
    return any(weight.device.type != "cpu" for weight in layer.parameters())


def _same(a: Any, b: Any) -> bool:
    return a is b


def _ordinary(tensor: Tensor) -> Tensor:
    """A tensor that was made in inference mode as one that a graph may hold, in the same memory."""
    with torch.inference_mode(False), torch.no_grad():
        found = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return found.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
