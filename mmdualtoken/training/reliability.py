"""Make any config's training resume exactly and survive kills, signals and full disks."""

from mmengine.config import Config, ConfigDict

from mmdualtoken.config_files import type_name

LOOPS = {
    "EpochBasedTrainLoop": "ResumableEpochLoop",
    "IterBasedTrainLoop": "ResumableIterLoop",
}
ADDED = ("ExactResumeHook", "NanLossHook", "InterruptHook")


def _make_loop_resumable(loop: dict) -> None:
    if "type" not in loop and "by_epoch" in loop:
        by_epoch = loop.pop("by_epoch")
        loop["type"] = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
    if type_name(loop) in LOOPS:
        loop["type"] = LOOPS[type_name(loop)]


def add_reliability(cfg: Config, on_nan_loss: str | None = None) -> None:
    """Replace MMEngine's checkpoint hook and training loop in a config, and add hooks.

    `AtomicCheckpointHook` replaces `CheckpointHook`; `ResumableEpochLoop` and `ResumableIterLoop`
    replace `EpochBasedTrainLoop` and `IterBasedTrainLoop`. They get the config's arguments; a
    user's own hook or loop stays. `ExactResumeHook`, `NanLossHook` and `InterruptHook` are added
    unless the config has them. A config written that way does the same in the toolboxes' train.py.

    Args:
        cfg: changed in place.
        on_nan_loss: the `action` of NanLossHook, instead of the config's.
    """
    if cfg.get("train_cfg"):
        _make_loop_resumable(cfg.train_cfg)
    if cfg.get("default_hooks") is None:
        cfg.default_hooks = ConfigDict()
    stock = ConfigDict(type="CheckpointHook", interval=1)  # what MMEngine would put in
    cfg.default_hooks.setdefault("checkpoint", stock)
    hooks = list(cfg.get("custom_hooks") or ())
    configs = [h for h in (*cfg.default_hooks.values(), *hooks) if isinstance(h, dict)]
    for hook in configs:
        if type_name(hook) == "CheckpointHook":
            hook["type"] = "AtomicCheckpointHook"
    known = {type_name(hook) for hook in configs}
    added = [name for name in ADDED if name not in known]
    cfg.custom_hooks = hooks + [ConfigDict(type=name) for name in added]
    for hook in cfg.custom_hooks:
        if on_nan_loss is not None and isinstance(hook, dict) and type_name(hook) == "NanLossHook":
            hook["action"] = on_nan_loss
    _import_hooks(cfg)


def _import_hooks(cfg: Config) -> None:
    """Let the toolboxes' tools find the hooks of the config in the work dir."""
    imports = cfg.get("custom_imports") or ConfigDict(imports=[], allow_failed_imports=False)
    names = imports.get("imports") or []
    names = [names] if isinstance(names, str) else list(names)
    if not any(name.split(".")[0] == "mmdualtoken" for name in names):
        cfg.custom_imports = ConfigDict(imports, imports=[*names, "mmdualtoken"])
