"""The tasks: their config, data, metric, and how long they train."""

from dataclasses import dataclass, field
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent / "configs"
#: Learning rates that a row may choose, the same for every task and backbone.
LRS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Budget:
    """How long a row trains.

    Attributes:
        iters: iterations of a training that is reported.
        lr_iters: of a training that only chooses the learning rate. Half as many for 'cpu': after
            a quarter, chance decided between rates that differ by a factor of 16. A quarter for
            nuclei's 'long', a whole training of 'cpu', and for coco2k_rtmdet: 2400 images.
        batch: images per iteration.
        workers: processes that load data.
        model: changes of the model for this budget, the same for every backbone.
    """

    iters: int
    lr_iters: int
    batch: int
    workers: int = 0
    model: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One data set with one head.

    Attributes:
        name: as on the command line.
        config: file below configs/, on top of a real config of ours.
        real: our real configs and those of rivals, '{}' is the backbone.
        data: folder of the data below $MMDUALTOKEN_DATA.
        size: (height, width) of its test images, at which FLOPs are counted.
        metric: key in the logs, and what it is called.
        to_points: what the logged value is multiplied with to be in points of 100.
        budgets: 'cpu' and 'gpu'; 'long', on a CPU too, where the first iterations may mislead.
    """

    name: str
    config: str
    real: str
    data: str
    size: tuple[int, int]
    metric: tuple[str, str]
    to_points: float
    budgets: dict[str, Budget]

    @property
    def file(self) -> Path:
        return CONFIGS / self.config


#: On a CPU the heads of the real detectors and segmentors would take most of the time.
#: RetinaNet's head starts with a deviation of 0.01 for 256 channels. For 64 it takes twice that to
#: pass on as much: at 0.01 four layers pass on a sixteenth, and it is chance when a training gets
#: over that.
NARROW_RETINA = dict(
    neck=dict(out_channels=64),
    bbox_head=dict(
        in_channels=64,
        feat_channels=64,
        init_cfg=dict(
            type="Normal",
            layer="Conv2d",
            std=0.02,
            override=dict(type="Normal", name="retina_cls", std=0.02, bias_prob=0.01),
        ),
    ),
)
NARROW_MASK = dict(
    neck=dict(out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        mask_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256),
        mask_head=dict(in_channels=64, conv_out_channels=64),
    ),
)
#: RTMDet-tiny's neck, which our config of small has not.
TINY_NECK = dict(neck=dict(out_channels=96, num_csp_blocks=1))
NARROW_SEGMENTOR = dict(decode_head=dict(channels=128), auxiliary_head=dict(channels=64))

TASKS = {
    task.name: task
    for task in (
        Task(
            name="cifar10",
            config="cifar10.py",
            real="mmpretrain/{}_in1k.py",
            data="cifar10",
            size=(64, 64),
            metric=("accuracy/top1", "top-1"),
            to_points=1,
            budgets=dict(
                cpu=Budget(iters=300, lr_iters=150, batch=32),
                long=Budget(iters=1200, lr_iters=1200, batch=32),
                gpu=Budget(iters=8000, lr_iters=1000, batch=128, workers=8),
            ),
        ),
        Task(
            name="bccd",
            config="bccd.py",
            real="mmdet/retinanet_{}_1x.py",
            data="bccd",
            size=(192, 256),
            metric=("coco/bbox_mAP", "box AP"),
            to_points=100,
            budgets=dict(
                cpu=Budget(iters=480, lr_iters=240, batch=2, model=NARROW_RETINA),
                gpu=Budget(iters=2000, lr_iters=400, batch=16, workers=8),
            ),
        ),
        Task(
            name="nuclei",
            config="nuclei.py",
            real="mmdet/maskrcnn_{}_1x.py",
            data="nuclei",
            size=(256, 256),
            metric=("coco/segm_mAP", "mask AP"),
            to_points=100,
            budgets=dict(
                cpu=Budget(iters=120, lr_iters=60, batch=4, model=NARROW_MASK),
                long=Budget(iters=480, lr_iters=120, batch=4, model=NARROW_MASK),
                gpu=Budget(iters=1500, lr_iters=300, batch=16, workers=8),
            ),
        ),
        Task(
            name="coco2k",
            config="coco2k.py",
            real="mmdet/retinanet_{}_1x.py",
            data="coco2k",
            size=(240, 320),
            metric=("coco/bbox_mAP_50", "box AP50"),
            to_points=100,
            budgets=dict(
                cpu=Budget(iters=800, lr_iters=400, batch=4, model=NARROW_RETINA),
                gpu=Budget(iters=4000, lr_iters=800, batch=16, workers=8),
            ),
        ),
        # Eight images at once: RTMDet's head has BatchNorms.
        *(
            Task(
                name=f"{data}_rtmdet",
                config=f"{data}_rtmdet.py",
                real="mmdet/rtmdet_{}.py",
                data=data,
                size=size,
                metric=metric,
                to_points=100,
                budgets=dict(
                    cpu=Budget(iters=iters, lr_iters=lr_iters, batch=8, model=TINY_NECK),
                    gpu=Budget(iters=4000, lr_iters=800, batch=32, workers=8, model=TINY_NECK),
                ),
            )
            for data, size, metric, iters, lr_iters in (
                ("bccd", (192, 256), ("coco/bbox_mAP", "box AP"), 240, 120),
                ("coco2k", (256, 320), ("coco/bbox_mAP_50", "box AP50"), 1200, 300),
            )
        ),
        *(
            Task(
                name=f"{prefix}{head}",
                config=f"{prefix}{head}.py",
                real=f"mmseg/{head}_{{}}_160k.py",
                data=data,
                size=(144, 192),
                metric=("mIoU", "mIoU"),
                to_points=1,
                budgets=dict(
                    cpu=Budget(
                        iters=iters * times, lr_iters=iters * times // 2, batch=4, model=model
                    ),
                    gpu=Budget(iters=3000, lr_iters=500, batch=16, workers=8),
                ),
            )
            for data, prefix, iters in (("camvid", "", 150), ("voc_animals", "voc_", 600))
            for head, times, model in (
                ("deeplabv3", 1, NARROW_SEGMENTOR),
                ("pspnet", 1, NARROW_SEGMENTOR),
                ("segformer", 2, {}),  # its step takes less than half
            )
        ),
    )
}
#: Names of all budgets.
BUDGETS = tuple(dict.fromkeys(name for task in TASKS.values() for name in task.budgets))
