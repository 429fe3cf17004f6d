"""Check of the schedule of the learning rate, before anything is built."""

from mmengine.config import Config

from mmdualtoken.errors import InputError


def check_schedule(cfg: Config) -> None:
    """Check that no part of the learning rate's schedule begins after the end of training.

    Raises:
        InputError: one does, for instance after a warm-up that is longer than the run.
    """
    schedulers = cfg.get("param_scheduler") or []
    for i, part in enumerate([schedulers] if isinstance(schedulers, dict) else schedulers):
        key = "max_epochs" if part.get("by_epoch", True) else "max_iters"
        begin, last = part.get("begin", 0), (cfg.get("train_cfg") or {}).get(key)
        if last and begin >= last:
            raise InputError(
                f"param_scheduler[{i}] ({part.get('type')}) has begin={begin}, but training ends "
                f"at {key}={last}. Train longer, or give param_scheduler parts that begin before "
                f"{last} (a shorter warm-up and what follows it)"
            )
