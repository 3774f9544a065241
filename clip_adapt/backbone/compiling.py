"""torch.compile where it works, and the plain function where it does not."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)


class Compiled:
    """A function that is compiled at its first call; when that fails, it runs as it is.

    Args:
        function: what is compiled.
        name: of it, for the log.
        graphs: replay its calls on a GPU as one; what it gives is overwritten at the next call.
        how: options of ``torch.compile``.
    """

    def __init__(
        self, function: Callable[..., Any], name: str, *, graphs: bool = False, **how: Any
    ) -> None:
        self.plain, self.name, self.graphs = function, name, graphs
        how["mode"] = "reduce-overhead" if graphs else None
        self.fast: Callable[..., Any] | None = torch.compile(function, **how)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        if self.fast is not None:
            if self.graphs:
                torch.compiler.cudagraph_mark_step_begin()
            try:
                return self.fast(*args, **kwargs)
            except Exception as error:
                if not _is_the_compilers(error):
                    raise
                reason = str(error).strip().partition("\n")[0]
                log.warning("compile=true: %s is not compiled: %s", self.name, reason)
                self.fast = None
        return self.plain(*args, **kwargs)


@functools.cache
def compile_function(function: Callable[..., Any]) -> Compiled:
    """Return a function of a module, compiled; the same one at every call."""
    return Compiled(function, f"{function.__module__}.{function.__name__}")


def compile_module(module: nn.Module) -> None:
    """Compile a module in place; its state, its names and what it is called by stay."""
    module._compiled_call_impl = Compiled(module._call_impl, type(module).__name__)


def is_compiled(module: nn.Module) -> bool:
    """Tell whether a module was compiled in place."""
    return module._compiled_call_impl is not None


def compile_towers(model: Any) -> None:
    """Compile the two towers of a model in place.

    The token embedding stays outside: learned context enters by a hook on it that changes from call
    to call. Hooks inside what is compiled are looked for at every call.
    """
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    # One function serves every block of every tower and method, with and without gradients.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    text = model.text.transformer
    for module in (model.visual, getattr(text, "encoder", text)):
        compile_module(module)


@contextlib.contextmanager
def run_uncompiled(root: nn.Module) -> Iterator[None]:
    """While the block runs, modules that were compiled in place run as they are written."""
    compiled = [(m, m._compiled_call_impl) for m in root.modules() if is_compiled(m)]
    for module, _ in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, fast in compiled:
            module._compiled_call_impl = fast


def _is_the_compilers(error: Exception) -> bool:
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)
