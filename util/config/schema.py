"""The schema of all knobs: type, range, meaning and every other fact of a knob that the code uses.

Values are set in config/*.py. A field has no default, so a recipe without a knob is refused and no number is hidden.
Field names are unique across sections, so config files and --options stay flat.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal

from util.base.errors import UserError

Count = int | Literal["auto"]  # "auto": of the categories of the training list
MayChange = Literal[
    "never",  # another value is another network: the checkpoint is refused
    "between epochs",  # it decides the order of the images: refused within an epoch
    "with as many images",  # it selects the images: refused within an epoch if their number differs
    "at the same step size",  # refused with another number of images per optimizer step
    "with a warning",  # the start logs it, and the doctor calls it suspicious
    "with a note",  # the start logs it, and the doctor notes it
    "freely",  # the start logs it, and the doctor ignores it, as the training stays the same
]
UNSTATED: Any = object()


def knob(
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    before: Any = UNSTATED,
    may_change: MayChange | None = None,
    replaced: Mapping[str, str] | None = None,
    plain: Any = UNSTATED,
    inference: Any = UNSTATED,
    is_path: bool = False,
    is_local: bool = False,
    in_card: bool = False,
) -> Any:
    """Declare a knob: a dataclass field with the arguments as metadata.

    Args:
        doc: its meaning.
        low: smallest legal value; of a tuple: of its elements.
        high: largest legal value.
        before: the value that describes runs from before the knob existed; required for every knob added after the
            first version.
        may_change: whether a resume may change the value; None: as in `MAY_CHANGE_BY_SECTION`.
        replaced: values of older runs that no longer exist, and their replacements.
        plain: value for the plain computation in full precision, the reference of an export.
        inference: value for prediction, which may run on another machine than the training.
        is_path: a path to read or write, which a recipe or the command line may set. In an untrusted checkpoint or run
            folder it is replaced by ''.
        is_local: depends on the machine: an evaluation with another value is the same evaluation.
        in_card: shown in a model card.
    """
    return field(metadata=dict(locals()))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    backbone: str = knob("feature extractor, a name of the table in models/backbones/build.py")
    backbone_norm: Literal["frozen_bn", "group_norm"] = knob(
        "normalisation inside a ResNet: frozen_bn for pretrained weights, group_norm for training from scratch"
    )
    backbone_freeze_at: int = knob(
        "number of frozen ResNet parts: 0 none, 1 the stem, 2 stem and layer1", low=0, high=5
    )
    backbone_weights: str = knob(
        "'none', 'imagenet', or the path of a checkpoint of the backbone alone", may_change="freely"
    )
    return_interm_indices: tuple[int, ...] = knob(
        "backbone stages used as features: 0 is stride 4, 3 is stride 32", low=0, high=3
    )
    num_feature_levels: int = knob(
        "levels of the deformable transformer; strided convolutions produce the extra ones", low=1, high=8
    )
    pe_temperatureH: float = knob("temperature of the sine position embedding, rows", low=1)  # noqa: N815 official name
    pe_temperatureW: float = knob("temperature of the sine position embedding, columns", low=1)  # noqa: N815 official name
    hidden_dim: int = knob("width of the transformer, a multiple of 32", low=32, high=8192)
    nheads: int = knob("attention heads", low=1, high=256)
    enc_layers: int = knob("encoder layers", low=1, high=100)
    dec_layers: int = knob("decoder layers", low=1, high=100)
    dim_feedforward: int = knob("width of the feed-forward networks", low=1, high=65_536)
    dropout: float = knob("dropout inside the transformer", low=0.0, high=0.9)
    enc_n_points: int = knob("sampling points per head and level in the encoder", low=1, high=64)
    dec_n_points: int = knob("sampling points per head and level in the decoder", low=1, high=64)
    num_classes: Count = knob(
        "largest category id + 1; 'auto': as many as the training list has categories, whatever their ids",
        low=1,
        high=100_000,
    )
    num_queries: int = knob("object slots per image", low=1, high=20_000, in_card=True)
    dn_number: int = knob(
        "from 50 on, 2 * dn_number denoising queries are distributed over the groups; below 50 there are 2 * dn_number "
        "groups for any number of boxes (official); 0 switches denoising off",
        low=0,
        high=10_000,
    )
    dn_label_noise_ratio: float = knob(
        "twice the share of denoising labels replaced by a random category", low=0.0, high=2.0
    )
    dn_box_noise_scale: float = knob("jitter of denoising boxes, as a share of the box's half side", low=0.0)
    dn_labelbook_size: Count = knob(
        "rows of the denoising label table, less one; at least num_classes - 1; 'auto': num_classes",
        low=1,
        high=100_000,
    )
    restrict_to_categories: bool = knob(
        "ids below num_classes that no category of the data has are never selected, predicted or drawn as noise"
    )
    image_head: bool = knob(
        "auxiliary image classification head on the encoder: does the image have any box", before=False
    )


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The losses and the matching."""

    cls_loss: Literal["focal", "varifocal", "mal", "ia_bce", "position_supervised"] = knob(
        "classification loss. focal: the target of a matched query is 1; the others: it grows with the IoU of the two "
        "boxes. All but focal have their own alpha and gamma",
        before="focal",
    )
    focal_alpha: float = knob(
        "weight of positives in the focal loss; negatives get 1 - focal_alpha", low=0.0, high=1.0, in_card=True
    )
    focal_gamma: float = knob("focusing exponent of the focal loss", low=0.0)
    varifocal_alpha: float = knob(
        "weight of the negatives in the varifocal loss, unlike focal_alpha; positives are weighted by their IoU",
        low=0.0,
        before=0.75,
    )
    varifocal_gamma: float = knob("focusing exponent of the varifocal loss, for negatives only", low=0.0, before=2.0)
    mal_gamma: float = knob(
        "exponent of the matchability-aware loss: of the IoU as target, and for negatives", low=0.0, before=1.5
    )
    ia_bce_alpha: float = knob(
        "exponent of the score in the target score^alpha * IoU^(1 - alpha) of the IoU-aware loss; not a weight",
        low=0.0,
        high=1.0,
        before=0.25,
    )
    ia_bce_gamma: float = knob("focusing exponent of the IoU-aware loss, for negatives only", low=0.0, before=2.0)
    position_supervised_gamma: float = knob(
        "exponent of the distance from the target IoU^2 in the position-supervised loss, and for negatives; "
        "targets are not rescaled as in the paper",
        low=1.0,
        before=2.0,
    )
    num_boxes_norm: Literal["window", "ema"] = knob(
        "denominator of the losses: the boxes of the optimizer step (at least 1), or their moving average over steps",
        before="window",
    )
    num_boxes_momentum: float = knob(
        "momentum of the moving average of num_boxes_norm 'ema'", low=0.0, high=1.0, before=0.9
    )
    image_loss_coef: float = knob(
        "weight of loss_image, the loss of image_head: a sum over images with the denominator of all losses",
        low=0.0,
        before=0.0,
    )
    matcher_focal_alpha: float | None = knob(
        "focal alpha of the matching cost, whatever cls_loss is; None: focal_alpha", low=0.0, high=1.0
    )
    matcher_focal_gamma: float | None = knob("focal gamma of the matching cost; None: focal_gamma", low=0.0)
    set_cost_class: float = knob("weight of the class term in the matching cost", low=0.0)
    set_cost_bbox: float = knob("weight of the L1 term in the matching cost", low=0.0)
    set_cost_giou: float = knob("weight of the GIoU term in the matching cost", low=0.0)
    cls_loss_coef: float = knob("weight of loss_ce", low=0.0)
    bbox_loss_coef: float = knob("weight of loss_bbox", low=0.0)
    giou_loss_coef: float = knob("weight of loss_giou", low=0.0)
    interm_loss_coef: float = knob("factor on the three weights for the encoder's proposals", low=0.0)
    no_interm_box_loss: bool = knob("exclude the box terms of the encoder's proposals from the total loss")
    aux_loss: bool = knob("supervise every decoder layer, not only the last")
    dn_padding_loss: bool = knob(
        "count the padding slots of denoising queries as background, as the official code does; "
        "False: they carry no loss and no query attends to them"
    )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimisation."""

    lr: float = knob("learning rate of the transformer", low=0.0, in_card=True)
    lr_backbone: float = knob("learning rate of the backbone", low=0.0, in_card=True)
    lr_linear_proj_mult: float = knob("factor for reference points and sampling offsets (ddetr_in_mmdet only)", low=0.0)
    param_dict_type: Literal["default", "ddetr_in_mmdet", "large_wd"] = knob("how parameters form optimizer groups")
    weight_decay: float = knob("AdamW weight decay", low=0.0)
    decay_norms_and_biases: bool = knob(
        "weight decay for norms, biases and other vectors too, as the official groups have it (large_wd: for most not)",
        before=True,
    )
    clip_max_norm: float = knob("largest gradient norm of a step; 0 does not clip", low=0.0)
    epochs: int = knob("passes over the training set", low=1, high=10_000, may_change="with a note", in_card=True)
    lr_schedule: Literal["multistep", "cosine", "flat_cosine"] = knob(
        "schedule after the warm-up. multistep: dropped at the epochs lr_drop; cosine: half a cosine down to "
        "lr_final_factor; flat_cosine: the same after lr_flat_share of the training",
        before="multistep",
    )
    lr_final_factor: float = knob("end of the cosine, as a share of each learning rate", low=0.0, high=1.0, before=0.0)
    lr_flat_share: float = knob(
        "share of the training before the cosine of flat_cosine starts; warmup_steps if these take longer",
        low=0.0,
        high=1.0,
        before=0.5,
    )
    lr_drop: tuple[int, ...] = knob(
        "multistep: epochs at which every learning rate is multiplied by lr_drop_factor",
        low=1,
        may_change="with a note",
        in_card=True,
    )
    lr_drop_factor: float = knob("factor of a learning rate drop", low=0.0, high=1.0, may_change="with a note")
    warmup_steps: int = knob("optimizer steps over which the learning rate rises linearly from near 0", low=0)
    batch_size: int = knob(
        "images per rank and forward pass", low=1, high=4096, may_change="at the same step size", in_card=True
    )
    gradient_accumulation_steps: int = knob(
        "forward passes per optimizer step", low=1, high=4096, may_change="at the same step size", in_card=True
    )
    use_ema: bool = knob("maintain and evaluate an exponential moving average of the weights", in_card=True)
    ema_decay: float = knob("decay of the average per optimizer step", low=0.0, high=1.0)
    ema_warmup_steps: int = knob(
        "the decay rises as ema_decay * (1 - exp(-step / ema_warmup_steps)); 0: constant", low=0
    )
    amp: Literal["off", "bf16", "fp16"] = knob("precision of the forward pass", plain="off", in_card=True)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data and its augmentation."""

    dataset_file: Literal["coco", "tbx11k"] = knob("layout of the data folder")
    train_list: str = knob(
        "training split: a name the layout knows, such as 'TBX11K_train' or 'train2017'",
        may_change="with as many images",
    )
    val_list: str = knob("validation split")
    allow_unlabelled_extras: bool = knob(
        "use TBX11K lists with extra images that show TB by their names but have no box (the lists all_*): they count "
        "as background; False refuses such lists",
        before=True,
    )
    exclude_unlabelled_tb: bool = knob(
        "exclude TBX11K images of tb/ without a box from training: they are unlabelled, not negative",
        before=False,
        may_change="with as many images",
    )
    data_aug_flip: float = knob("probability of a horizontal flip", low=0.0, high=1.0, in_card=True)
    data_aug_crop: float = knob("probability of resize, random crop, resize instead of one resize", low=0.0, high=1.0)
    data_aug_scales: tuple[int, ...] = knob("shorter sides to choose from, pixels", low=32, high=16_384, in_card=True)
    data_aug_max_size: int = knob("longest side allowed, in evaluation too, pixels", low=32, high=16_384)
    data_aug_square: bool = knob(
        "one scale per optimizer step, every image is resized to exactly that square: no padding, so the layout of a "
        "step changes nothing; False: a scale per image with its aspect ratio kept (official)"
    )
    data_aug_scales2_resize: tuple[int, ...] = knob(
        "shorter sides to choose from before a crop, pixels", low=32, high=16_384
    )
    data_aug_scales2_crop: tuple[int, ...] = knob("smallest and largest side of a crop, pixels", low=16, high=16_384)
    data_eval_scale: int = knob("shorter side in evaluation, pixels", low=32, high=16_384)
    positive_fraction: float = knob(
        "minimum share of images with boxes in an optimizer step, which are then sampled more than once per epoch; "
        "0: every image once",
        low=0.0,
        high=1.0,
        before=0.0,
        may_change="between epochs",
    )
    repeat_threshold: float = knob(
        "share of the images below which a category is rare and its images are sampled more than once per epoch "
        "(LVIS); 0: every image once",
        low=0.0,
        high=1.0,
        before=0.0,
        may_change="between epochs",
    )
    data_aug_rotate: float = knob("maximum rotation in either direction, degrees", low=0.0, high=45.0, before=0.0)
    data_aug_zoom: float = knob("maximum relative change of scale", low=0.0, high=0.5, before=0.0)
    data_aug_brightness: float = knob("maximum relative change of brightness", low=0.0, high=0.9, before=0.0)
    data_aug_contrast: float = knob("maximum relative change of contrast", low=0.0, high=0.9, before=0.0)
    data_aug_gamma: float = knob("x, for a gamma from 1 / (1 + x) to 1 + x", low=0.0, high=3.0, before=0.0)
    data_aug_clahe: float = knob("probability of local histogram equalization (CLAHE)", low=0.0, high=1.0, before=0.0)
    data_aug_clahe_clip: float = knob("maximum clip limit of CLAHE, drawn from 1 on", low=1.0, high=40.0, before=3.0)
    data_aug_noise: float = knob(
        "maximum standard deviation of Gaussian noise, grey levels of 255", low=0.0, high=64.0, before=0.0
    )
    data_aug_erase: float = knob("probability of erasing a rectangle outside all boxes", low=0.0, high=1.0, before=0.0)
    data_aug_erase_area: float = knob("maximum share of the image that is erased", low=0.001, high=0.5, before=0.05)
    data_aug_mosaic: float = knob("probability of a mosaic of four images", low=0.0, high=1.0, before=0.0)
    data_aug_copy_paste: float = knob(
        "probability of pasting the lesions of another image", low=0.0, high=1.0, before=0.0
    )
    data_aug_mix_end_epoch: int = knob(
        "epoch from which on mosaic and copy-paste are off", low=0, high=10_000, before=0
    )
    image_depth: int | Literal["auto"] = knob(
        "bits that the samples of 16-bit PNG and TIFF files use, such as 12; higher values become white. auto: as "
        "their headers state, else the smallest of 8, 10, 12, 14, 16 that holds the highest value of all images; the "
        "value found is stored with the run",
        low=8,
        high=16,
        before=16,
    )
    image_cache: str = knob(
        "folder of the decoded images, one per data set, built if missing or outdated; '': read the image files",
        is_path=True,
        before="",
        may_change="freely",
        is_local=True,
    )
    num_workers: int = knob(
        "loader workers per rank, at most one per usable core", low=0, high=256, may_change="freely", is_local=True
    )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """The evaluation."""

    num_select: int = knob("detections kept per image", low=1, high=100_000, may_change="with a warning")
    nms_iou_threshold: float = knob(
        "IoU threshold of NMS; 0 switches NMS off",
        low=0.0,
        high=1.0,
        in_card=True,
        may_change="with a warning",
    )
    image_gate: float = knob(
        "box scores are multiplied by (image score of image_head)^image_gate; 0: they are not",
        low=0.0,
        high=10.0,
        before=0.0,
    )
    eval_batch_size: int = knob("images per rank and forward pass in evaluation", low=1, high=4096)
    eval_every: int = knob("epochs between evaluations; the last epoch is always evaluated", low=1)
    operating_rule: Literal["sensitivity", "false_alarms", "youden"] = knob(
        "how the score threshold is chosen on validation images: for an image-level sensitivity of operating_target, "
        "for operating_target false positives per image, or for the highest image-level sensitivity + specificity"
    )
    operating_target: float = knob("target of operating_rule; not used by youden", low=0.0, high=1000.0)
    bootstrap_draws: int = knob(
        "draws of the bootstrap for 95 % intervals, after the last epoch and in evaluation; 0: no intervals",
        low=0,
        high=1_000_000,
    )


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """The speed of computation. None of these knobs changes results by more than rounding."""

    attn_backend: Literal["auto", "torch", "sparse", "cpp", "triton"] = knob(
        "implementation of deformable attention. auto: triton on a GPU, cpp or else sparse on a CPU; torch: the "
        "definition; sparse: PyTorch's sparse matrices, for CPUs; cpp: compiled on this machine at the first use; "
        "triton: GPU kernels",
        replaced={"compile": "auto"},
        before="torch",
        plain="torch",
        inference="auto",
    )
    fast_layers: bool = knob(
        "frozen norms folded into convolutions, feed-forward networks that store less for the backward pass, and on a "
        "CPU oneDNN linear layers and memory reuse between steps; False: plain layers, for comparison",
        before=False,
        plain=False,
    )
    channels_last: bool = knob(
        "channels-last memory format of convolutions, faster on GPUs in half precision", before=False, plain=False
    )
    compile: Literal["off", "backbone", "model"] = knob(
        "torch.compile for the backbone, or also for the layers of the transformer; the first steps take minutes",
        before="off",
        plain="off",
        inference="off",
    )
    activation_checkpointing: bool = knob(
        "recompute the layers of the transformer in the backward pass instead of storing activations: less memory, "
        "more time",
        before=False,
        plain=False,
    )


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """The behaviour of a run."""

    seed: int = knob("the root of all randomness", low=0, high=2**31 - 1, may_change="between epochs", in_card=True)
    log_every: int = knob("optimizer steps between log lines", low=1)
    checkpoint_every_minutes: float = knob(
        "minutes between checkpoints within an epoch; 0: only at the end of epochs", low=0.0, high=100_000.0
    )
    keep_last_checkpoints: int = knob(
        "newest checkpoints kept: checkpoint.pth, before it checkpoint.1.pth, ...", low=1, high=1000
    )
    skip_nonfinite_steps: int = knob(
        "non-finite steps (loss or gradient) that a run skips before it stops; 0: stop at the first one",
        low=0,
        high=1_000_000,
    )
    on_failing: Literal["warn", "stop"] = knob(
        "what to do if the doctor calls the run failing at the end of an epoch: warn, or stop with an error",
        before="warn",
    )
    tensorboard: bool = knob(
        "also write the rows of log.jsonl to RUN/tensorboard; needs the package tensorboard", before=False
    )
    save_checkpoint_interval: int = knob("epochs between numbered checkpoints that are never deleted; 0: none", low=0)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The resolved config: all sections."""

    model: ModelConfig
    loss: LossConfig
    optim: OptimConfig
    data: DataConfig
    eval: EvalConfig
    speed: SpeedConfig
    runtime: RuntimeConfig


SECTIONS: dict[str, type] = {f.name: f.type for f in fields(Config)}  # type: ignore[misc]
KNOBS: dict[str, tuple[str, Field]] = {f.name: (s, f) for s, cls in SECTIONS.items() for f in fields(cls)}
# for knobs without their own; in the other sections: with a warning
MAY_CHANGE_BY_SECTION: dict[str, MayChange] = {
    "model": "never",
    "eval": "freely",
    "speed": "freely",
    "runtime": "freely",
}
MAY_CHANGE: dict[str, MayChange] = {
    name: spec.metadata["may_change"] or MAY_CHANGE_BY_SECTION.get(section, "with a warning")
    for name, (section, spec) in KNOBS.items()
}


def resolved(count: Count) -> int:
    """The number of a knob that may be "auto", which is replaced as soon as the categories are known.

    Raises:
        UserError: it was not, as here no training list is read.
    """
    if count == "auto":
        raise UserError(
            "num_classes or dn_labelbook_size is 'auto', which stands for the categories of a training list, and none "
            "is read here; give the numbers: --options num_classes=N dn_labelbook_size=N"
        )
    return count


def _stated(fact: str) -> dict[str, Any]:
    """Return the stated values of a fact by knob."""
    return {n: spec.metadata[fact] for n, (_, spec) in KNOBS.items() if spec.metadata[fact] is not UNSTATED}


def _marked(flag: str) -> tuple[str, ...]:
    return tuple(name for name, (_, spec) in KNOBS.items() if spec.metadata[flag])


BEFORE = _stated("before")
REPLACED: dict[str, Mapping[str, str]] = {
    name: spec.metadata["replaced"] for name, (_, spec) in KNOBS.items() if spec.metadata["replaced"]
}
PLAIN = _stated("plain")
INFERENCE = _stated("inference")
PATHS = _marked("is_path")
LOCAL = _marked("is_local")
IN_CARD = _marked("in_card")
