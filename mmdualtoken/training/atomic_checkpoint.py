"""Checkpoints that are either whole or not there, whatever ends the run while they are written."""

from collections import deque
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmdualtoken.files import PARTIAL, replace_file


@register_backend("atomic_local", force=True)
class AtomicLocalBackend(LocalBackend):
    """MMEngine's local files, written by `replace_file`.

    For checkpoints of the stock hook: `CheckpointHook(backend_args=dict(backend="atomic_local"))`.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file."""
        replace_file(filepath, obj)


def write_checkpoint(
    hook: CheckpointHook, runner: Runner, filename: str, meta: dict, by_epoch: bool
) -> None:
    """Write a checkpoint as `hook` is set to, then its path to `last_checkpoint`.

    Args:
        hook: a CheckpointHook whose `before_train` has been called.
        filename: name in the hook's `out_dir`.
        meta: its 'epoch' and 'iter' are those at which a resumed run begins.
        by_epoch: whether an epoch has just ended, from which FlexibleRunner concludes the same.
    """
    hook.last_ckpt = hook.file_backend.join_path(hook.out_dir, filename)
    runner.message_hub.update_info("last_ckpt", hook.last_ckpt)
    runner.save_checkpoint(
        hook.out_dir,
        filename,
        hook.file_client_args,
        save_optimizer=hook.save_optimizer,
        save_param_scheduler=hook.save_param_scheduler,
        meta=meta,
        by_epoch=by_epoch,
        backend_args=hook.backend_args,
        **hook.args,
    )
    if is_main_process():
        replace_file(Path(runner.work_dir) / "last_checkpoint", str(hook.last_ckpt).encode())


def read_last_checkpoint(work_dir: str | Path) -> str | None:
    """The checkpoint that `last_checkpoint` of a work dir names; None if there is no such file."""
    try:
        return (Path(work_dir) / "last_checkpoint").read_text("utf-8").strip() or None
    except OSError:
        return None


@HOOKS.register_module(force=True)
class AtomicCheckpointHook(CheckpointHook):
    """`CheckpointHook` after which a run can be killed at any moment and be resumed.

    Checkpoints, best ones too, and `last_checkpoint` are replaced as whole files. Outdated ones,
    of `max_keep_ckpts` and `save_best`, are removed when the new one is on the disk, which needs
    space for one more than MMEngine's hook. What a kill left half-written is removed when the next
    run starts, and so are outdated checkpoints that it left.

    Args:
        all: as CheckpointHook's. With `out_dir` on a remote storage, or `backend_args` of another
            backend than "local", that backend's own way of writing is used.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        remote = "://" in str(self.out_dir) or self.file_client_args is not None
        if self.backend_args in (None, {"backend": "local"}) and not remote:
            self.backend_args = dict(backend="atomic_local")

    def before_train(self, runner: Runner) -> None:
        """Prepare the folder, and fail now rather than at the first checkpoint if it cannot be."""
        super().before_train(runner)
        if not is_main_process():
            return
        folders = {Path(runner.work_dir)}
        if isinstance(self.file_backend, AtomicLocalBackend):
            folders.add(Path(self.out_dir))
        for folder in folders:
            self._prepare(folder, runner)

    @staticmethod
    def _prepare(folder: Path, runner: Runner) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in ("*.pth", "last_checkpoint", "evaluations.json"):
            for partial in folder.glob(pattern + PARTIAL):
                runner.logger.info(f"Removing {partial}, which an interrupted run left unfinished.")
                partial.unlink()
        probe = folder / f"probe.pth{PARTIAL}"
        probe.write_bytes(b"\0")
        probe.unlink()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated = []
        if self.max_keep_ckpts > 0:
            kept = [i for i in self.keep_ckpt_ids if i != step] + [step]
            # Outdated ones too: a run that is killed before it removed them does so when resumed.
            runner.message_hub.update_info("keep_ckpt_ids", kept)
            self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
            outdated = kept[: -self.max_keep_ckpts]
        write_checkpoint(self, runner, self.filename_tmpl.format(step), meta, self.by_epoch)
        for old in outdated:
            self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old)))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        # MMEngine removes the previous best before it writes the new one, if it knows of one.
        single = len(self.key_indicators) == 1
        before = {None: self.best_ckpt_path} if single else dict(self.best_ckpt_path_dict)
        self._set_best(dict.fromkeys(before))
        super()._save_best_checkpoint(runner, metrics)
        after = {None: self.best_ckpt_path} if single else dict(self.best_ckpt_path_dict)
        self._set_best({key: after[key] or before[key] for key in before})
        for key, old in before.items():
            if old and after[key] and old != after[key] and self._is_mine(old):
                self._remove(old)

    def _is_mine(self, path: str) -> bool:
        """Whether a checkpoint is in this run's folder: one resumed elsewhere knows another's."""
        return "://" in str(path) or Path(path).resolve().parent == Path(self.out_dir).resolve()

    def _set_best(self, paths: dict) -> None:
        if None in paths:
            self.best_ckpt_path = paths[None]
        else:
            self.best_ckpt_path_dict.update(paths)

    def _remove(self, path: str) -> None:
        if not is_main_process():
            return
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # of a sharded strategy
            self.file_backend.rmtree(path)
