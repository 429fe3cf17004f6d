"""Refuses to test a checkpoint that does not match the model."""

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.distributed.fsdp import FullyShardedDataParallel

from mmdualtoken.errors import InputError
from mmdualtoken.weights.fitting import dataset_meta, match_tensors, moved_class
from mmdualtoken.weights.pretrained import describe_misfit, tensors_of


@HOOKS.register_module(force=True)
class StrictLoadHook(Hook):
    """Refuse a checkpoint that lacks weights of the model, or has other shapes or classes.

    MMEngine warns, and measures what the random weights in their place predict. Tensors that the
    model does not know are left to its warning. tools/test.py adds the hook. Models sharded by FSDP
    are not checked.

    Raises:
        InputError: the checkpoint does not fit; the message lists what.
    """

    priority = "VERY_HIGH"  # before EMAHook, which loads the checkpoint into its copy

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare names, shapes and classes, and put bare tensors where EMAHook looks for them."""
        model = runner.model
        if isinstance(model, FullyShardedDataParallel):
            return
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        filename = str(runner._load_from)
        tensors = tensors_of(checkpoint, filename)
        state, missing, _, other = match_tensors(model, tensors)
        if missing or other:
            misfit = describe_misfit(model.state_dict(), state, missing, [], other)
            raise InputError(
                f"Checkpoint {filename} is of another model than the config's. {misfit}. Use the "
                "config that it was trained with; training leaves a copy of it in the work dir."
            )
        meta = getattr(runner.test_dataloader.dataset, "metainfo", None) or {}
        if moved := moved_class(dataset_meta(checkpoint).get("classes"), meta.get("classes")):
            raise InputError(
                f"The classes of test_dataloader are not in the order of checkpoint {filename}: "
                f"{moved}. Set metainfo.classes and the data as in its training."
            )
        checkpoint.setdefault("state_dict", tensors)
