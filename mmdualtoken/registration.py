"""Registers what configs name without importing it: training and data are loaded when used."""

from importlib import import_module
from inspect import Parameter, Signature

from mmengine.registry import (
    FUNCTIONS,
    HOOKS,
    LOOPS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIMIZERS,
    STRATEGIES,
    TRANSFORMS,
    Registry,
)

#: Registry, module and names of the components that a config can name.
COMPONENTS = (
    (HOOKS, "training.atomic_checkpoint", ("AtomicCheckpointHook",)),
    (HOOKS, "training.exact_resume", ("ExactResumeHook",)),
    (HOOKS, "training.finetuning", ("DropClassLayersHook",)),
    (HOOKS, "training.interrupt", ("InterruptHook",)),
    (HOOKS, "training.nan_loss", ("NanLossHook",)),
    (HOOKS, "training.strict_load", ("StrictLoadHook",)),
    (LOOPS, "training.resumable_data", ("ResumableEpochLoop", "ResumableIterLoop")),
    (MODELS, "training.source_head", ("SourceClsHead",)),
    (OPTIM_WRAPPER_CONSTRUCTORS, "training.layer_decay", ("LayerDecayOptimWrapperConstructor",)),
    (OPTIMIZERS, "training.muon", ("MuonAdamW",)),
    (STRATEGIES, "training.fsdp", ("ResumingFSDPStrategy",)),
    (FUNCTIONS, "training.fsdp", ("dualtoken_wrap_policy",)),
    (TRANSFORMS, "data.loading", ("CheckedLoadImageFromFile",)),
    (TRANSFORMS, "data.jpeg", ("RandomJPEG",)),
)


def register_on_first_use(registry: Registry, module: str, name: str) -> None:
    """Register a function that imports ``name`` from ``module`` and calls it.

    Importing the module registers the class itself in the function's place.
    """
    if name in registry.module_dict:
        return

    def build(*args, **kwargs):
        return getattr(import_module(f"mmdualtoken.{module}"), name)(*args, **kwargs)

    build.__name__ = name
    if registry is OPTIMIZERS:  # MMEngine passes the parameters by the first argument's name
        build.__signature__ = Signature([Parameter("params", Parameter.POSITIONAL_OR_KEYWORD)])
    registry.register_module(name=name, module=build)


def register_components() -> None:
    """Make every component of the package known to MMEngine's registries; models are imported."""
    import_module("mmdualtoken.models")
    for registry, module, names in COMPONENTS:
        for name in names:
            register_on_first_use(registry, module, name)
