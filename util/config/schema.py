"""Every knob of the repository, with all facts of it that code elsewhere goes by.

Values live in config/*.py; all else lives here. A field has no default: a recipe
that forgets a knob is refused, so a config file never hides a number.
Field names are unique across sections, so config files and --options stay flat.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal

BACKBONES = Literal[
    "resnet10",
    "resnet10_narrow",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "swin_T_224_1k",
    "swin_S_224_1k",
    "swin_B_224_22k",
    "swin_B_384_22k",
    "swin_L_224_22k",
    "swin_L_384_22k",
    "convnext_tiny_22k",
    "convnext_base_22k",
    "convnext_large_22k",
    "convnext_xlarge_22k",
]

MayChange = Literal[
    "never",  # another value is another network: the checkpoint is refused
    "between epochs",  # it decides which image comes when: refused inside an epoch
    "with as many images",  # it decides which images there are: refused inside an epoch where their number differs
    "at the same step size",  # refused with another number of images per step; the start logs that number's parts alone
    "with a warning",  # the start logs it, and the doctor calls it suspicious
    "with a note",  # the start logs it, and the doctor notes it
    "freely",  # the start logs it; the training stays what it was, and the doctor is silent
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
    """A documented field; the arguments are its metadata.

    Args:
        doc: its meaning.
        low: smallest legal value; of a tuple: of its elements.
        high: largest legal value.
        before: what runs did before the knob existed; every knob that is added states it, and only those of the first
            version do not.
        may_change: whether a resume may go on with another value; None: as `MAY_CHANGE_BY_SECTION` has it.
        replaced: values that older runs may name and that exist no more, and what each is taken for.
        plain: value of the plain computation in full precision, the reference of an export.
        inference: value for prediction, where the machine is another one than that of the training.
        is_path: a place to read or write, which a recipe or the command line may name, but no checkpoint and no run
            folder, that may be a stranger's: taken from there it is ''.
        is_local: set for the machine: an evaluation with another value is the same evaluation.
        in_card: shown in a model card.
    """
    return field(metadata=dict(locals()))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the network is."""

    backbone: BACKBONES = knob("feature extractor")
    backbone_norm: Literal["frozen_bn", "group_norm"] = knob(
        "normalisation inside a ResNet: frozen_bn for pretrained weights, group_norm for training from scratch"
    )
    backbone_freeze_at: int = knob(
        "ResNet parts that never train: 0 none, 1 the stem, 2 stem and layer1", low=0, high=5
    )
    backbone_weights: str = knob(
        "'none', 'imagenet', or the path of a checkpoint of the backbone alone", may_change="freely"
    )
    return_interm_indices: tuple[int, ...] = knob(
        "backbone stages handed on: 0 is stride 4, 3 is stride 32", low=0, high=3
    )
    num_feature_levels: int = knob(
        "levels of the deformable transformer, strided convolutions make the extra ones", low=1, high=8
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
    num_classes: int = knob("largest category id + 1", low=2, high=100_000)
    num_queries: int = knob("object slots per image", low=1, high=20_000, in_card=True)
    dn_number: int = knob(
        "from 50 on, 2 * dn_number denoising queries are shared out over the groups; below 50 there are 2 * dn_number "
        "groups, however many boxes (official); 0 switches denoising off",
        low=0,
        high=10_000,
    )
    dn_label_noise_ratio: float = knob(
        "twice the share of denoising labels replaced by a random category", low=0.0, high=2.0
    )
    dn_box_noise_scale: float = knob("jitter of denoising boxes, as a share of the box's half side", low=0.0)
    dn_labelbook_size: int = knob(
        "rows of the denoising label table, less one; at least num_classes - 1", low=1, high=100_000
    )
    restrict_to_categories: bool = knob(
        "ids below num_classes that no category of the data has are never selected, predicted or drawn as noise"
    )
    image_head: bool = knob(
        "an answer for the whole image besides, from the encoder: does it have any box", before=False
    )


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What it is trained to do."""

    cls_loss: Literal["focal", "varifocal", "mal", "ia_bce", "position_supervised"] = knob(
        "what a class score is trained to be. focal: 1 for a query that answers for a box; the others: a number that "
        "grows with the overlap (IoU) of the two boxes. All but focal take their own alpha and gamma",
        before="focal",
    )
    focal_alpha: float = knob(
        "weight of positives in the focal loss; negatives get 1 - focal_alpha", low=0.0, high=1.0, in_card=True
    )
    focal_gamma: float = knob("focusing exponent of the focal loss", low=0.0)
    varifocal_alpha: float = knob(
        "weight of the negatives in the varifocal loss, the other way round than focal_alpha; positives get their IoU",
        low=0.0,
        before=0.75,
    )
    varifocal_gamma: float = knob("focusing exponent of the varifocal loss, for negatives only", low=0.0, before=2.0)
    mal_gamma: float = knob(
        "exponent of the matchability-aware loss: of the IoU as target, and for negatives", low=0.0, before=1.5
    )
    ia_bce_alpha: float = knob(
        "share of the score itself in the target score^alpha * IoU^(1 - alpha) of the IoU-aware loss; not a weight",
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
        "what losses are divided by: the boxes of the optimizer step (at least 1), or their moving average over steps",
        before="window",
    )
    num_boxes_momentum: float = knob(
        "share of the old average that stays when num_boxes_norm is 'ema'", low=0.0, high=1.0, before=0.9
    )
    image_loss_coef: float = knob(
        "weight of loss_image, for the answer of image_head: a sum over images, divided by what all losses are",
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
    no_interm_box_loss: bool = knob("leave the box terms of the encoder's proposals out of the total")
    aux_loss: bool = knob("supervise every decoder layer, not only the last")
    dn_padding_loss: bool = knob(
        "count the padding slots of denoising queries as background, as the official code does; "
        "False: they carry no loss and no query sees them"
    )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How it is trained."""

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
        "learning rates after the warm-up. multistep: dropped at the epochs lr_drop; cosine: half a cosine down to "
        "lr_final_factor; flat_cosine: the same after lr_flat_share of the training",
        before="multistep",
    )
    lr_final_factor: float = knob(
        "what the cosine ends at, as a share of each learning rate", low=0.0, high=1.0, before=0.0
    )
    lr_flat_share: float = knob(
        "share of the training before the cosine of flat_cosine begins; warmup_steps where these take longer",
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
    use_ema: bool = knob("keep and evaluate an exponential moving average of the weights", in_card=True)
    ema_decay: float = knob("decay of the average per optimizer step", low=0.0, high=1.0)
    ema_warmup_steps: int = knob(
        "the decay rises as ema_decay * (1 - exp(-step / ema_warmup_steps)); 0: constant", low=0
    )
    amp: Literal["off", "bf16", "fp16"] = knob("precision of the forward pass", plain="off", in_card=True)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What it is trained on."""

    dataset_file: Literal["coco", "tbx11k"] = knob("layout of the data folder")
    train_list: str = knob(
        "training split: a name the layout knows, such as 'TBX11K_train' or 'train2017'",
        may_change="with as many images",
    )
    val_list: str = knob("validation split")
    allow_unlabelled_extras: bool = knob(
        "use TBX11K lists with extra images that show TB by their names but have no box (the lists all_*): they pass "
        "for background; False refuses such lists",
        before=True,
    )
    exclude_unlabelled_tb: bool = knob(
        "leave TBX11K images of tb/ without a box out of training: not negative, unlabelled",
        before=False,
        may_change="with as many images",
    )
    data_aug_flip: float = knob("probability of a horizontal flip", low=0.0, high=1.0, in_card=True)
    data_aug_crop: float = knob("probability of resize, random crop, resize instead of one resize", low=0.0, high=1.0)
    data_aug_scales: tuple[int, ...] = knob("shorter sides to choose from, pixels", low=32, high=16_384, in_card=True)
    data_aug_max_size: int = knob("longest side allowed, in evaluation too, pixels", low=32, high=16_384)
    data_aug_square: bool = knob(
        "one scale per optimizer step, every image of it becomes exactly that square: no padding, so that the cut of "
        "a step changes nothing; False: a scale per image, its sides in proportion (official)"
    )
    data_aug_scales2_resize: tuple[int, ...] = knob(
        "shorter sides to choose from before a crop, pixels", low=32, high=16_384
    )
    data_aug_scales2_crop: tuple[int, ...] = knob("smallest and largest side of a crop, pixels", low=16, high=16_384)
    data_eval_scale: int = knob("shorter side in evaluation, pixels", low=32, high=16_384)
    positive_fraction: float = knob(
        "least share of the images of an optimizer step that have boxes, which then come more than once per epoch; "
        "0: every image comes once",
        low=0.0,
        high=1.0,
        before=0.0,
        may_change="between epochs",
    )
    repeat_threshold: float = knob(
        "share of the images below which a category is rare, so that images with it come more than once per epoch "
        "(LVIS); 0: every image comes once",
        low=0.0,
        high=1.0,
        before=0.0,
        may_change="between epochs",
    )
    data_aug_rotate: float = knob("largest rotation either way, degrees", low=0.0, high=45.0, before=0.0)
    data_aug_zoom: float = knob("largest change of scale either way, as a share", low=0.0, high=0.5, before=0.0)
    data_aug_brightness: float = knob(
        "largest change of brightness either way, as a share", low=0.0, high=0.9, before=0.0
    )
    data_aug_contrast: float = knob("largest change of contrast either way, as a share", low=0.0, high=0.9, before=0.0)
    data_aug_gamma: float = knob("x in gamma from 1 / (1 + x) to 1 + x", low=0.0, high=3.0, before=0.0)
    data_aug_clahe: float = knob("probability of local histogram equalization (CLAHE)", low=0.0, high=1.0, before=0.0)
    data_aug_clahe_clip: float = knob("largest clip limit of CLAHE, drawn from 1 on", low=1.0, high=40.0, before=3.0)
    data_aug_noise: float = knob(
        "largest standard deviation of Gaussian noise, grey levels of 255", low=0.0, high=64.0, before=0.0
    )
    data_aug_erase: float = knob(
        "probability that a rectangle outside all boxes is erased", low=0.0, high=1.0, before=0.0
    )
    data_aug_erase_area: float = knob("largest share of the image that is erased", low=0.001, high=0.5, before=0.05)
    data_aug_mosaic: float = knob("probability that an image is made of four", low=0.0, high=1.0, before=0.0)
    data_aug_copy_paste: float = knob(
        "probability that an image gets the lesions of another", low=0.0, high=1.0, before=0.0
    )
    data_aug_mix_end_epoch: int = knob(
        "epoch from which on there is neither mosaic nor copy-paste", low=0, high=10_000, before=0
    )
    image_cache: str = knob(
        "folder for the decoded images, one for each data set, built when missing or out of date; '': read the files",
        is_path=True,
        before="",
        may_change="freely",
        is_local=True,
    )
    num_workers: int = knob(
        "loader processes per rank, at most one per usable core", low=0, high=256, may_change="freely", is_local=True
    )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How it is judged."""

    num_select: int = knob("detections kept per image", low=1, high=100_000, may_change="with a warning")
    nms_iou_threshold: float = knob(
        "IoU above which the weaker of two boxes is dropped; 0 switches it off",
        low=0.0,
        high=1.0,
        in_card=True,
        may_change="with a warning",
    )
    image_gate: float = knob(
        "scores of boxes are multiplied by (score of the whole image)^image_gate, that of image_head; 0: they are not",
        low=0.0,
        high=10.0,
        before=0.0,
    )
    eval_batch_size: int = knob("images per rank and forward pass in evaluation", low=1, high=4096)
    eval_every: int = knob("epochs between evaluations; the last epoch is always evaluated", low=1)
    operating_rule: Literal["sensitivity", "false_alarms", "youden"] = knob(
        "how the score from which on a box is shown is chosen on validation images: so that operating_target of the "
        "images with tuberculosis are found, or operating_target false alarms per image are allowed, or so that "
        "image-level sensitivity + specificity is highest"
    )
    operating_target: float = knob("the target of operating_rule; youden has none", low=0.0, high=1000.0)
    bootstrap_draws: int = knob(
        "draws of the bootstrap for 95 % intervals, after the last epoch and in evaluation; 0: no intervals",
        low=0,
        high=1_000_000,
    )


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """How fast it is computed. None of this changes what is computed by more than rounding."""

    attn_backend: Literal["auto", "torch", "sparse", "cpp", "triton"] = knob(
        "what computes deformable attention. auto: triton on a GPU, cpp or else sparse on a CPU; torch: definition; "
        "sparse: PyTorch's sparse matrices, for CPUs; cpp: loops by the C++ compiler of the machine, at the first use; "
        "triton: GPU kernels",
        replaced={"compile": "auto"},
        before="torch",
        plain="torch",
        inference="auto",
    )
    fast_layers: bool = knob(
        "frozen norms folded into convolutions, feed-forward networks that keep less for the backward pass, on a CPU "
        "also oneDNN for linear layers and memory that is kept between steps; False: plain layers, to compare with",
        before=False,
        plain=False,
    )
    channels_last: bool = knob(
        "convolutions with channels innermost, which GPUs prefer in half precision", before=False, plain=False
    )
    compile: Literal["off", "backbone", "model"] = knob(
        "torch.compile for the backbone, or for the layers of the transformer too; its first steps take minutes",
        before="off",
        plain="off",
        inference="off",
    )
    activation_checkpointing: bool = knob(
        "compute the layers of the transformer again in the backward pass instead of keeping what they need: less "
        "memory, more time",
        before=False,
        plain=False,
    )


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """How the run behaves."""

    seed: int = knob("the root of all randomness", low=0, high=2**31 - 1, may_change="between epochs", in_card=True)
    log_every: int = knob("optimizer steps between log lines", low=1)
    checkpoint_every_minutes: float = knob(
        "minutes between checkpoints inside an epoch; 0: only at the end of epochs", low=0.0, high=100_000.0
    )
    keep_last_checkpoints: int = knob(
        "newest checkpoints kept: checkpoint.pth, before it checkpoint.1.pth, ...", low=1, high=1000
    )
    skip_nonfinite_steps: int = knob(
        "steps with a loss or gradient that is not finite which a run leaves out before it stops; 0: stop at the first",
        low=0,
        high=1_000_000,
    )
    on_failing: Literal["warn", "stop"] = knob(
        "what to do when the doctor calls the run failing at the end of an epoch: say so, or stop with an error",
        before="warn",
    )
    tensorboard: bool = knob(
        "write the rows of log.jsonl to RUN/tensorboard too; needs the package tensorboard", before=False
    )
    save_checkpoint_interval: int = knob("epochs between numbered checkpoints kept for good; 0: none", low=0)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All of it."""

    model: ModelConfig
    loss: LossConfig
    optim: OptimConfig
    data: DataConfig
    eval: EvalConfig
    speed: SpeedConfig
    runtime: RuntimeConfig


SECTIONS: dict[str, type] = {f.name: f.type for f in fields(Config)}  # type: ignore[misc]
KNOBS: dict[str, tuple[str, Field]] = {f.name: (s, f) for s, cls in SECTIONS.items() for f in fields(cls)}
# of the knobs that do not say it themselves; in the other sections: with a warning
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


def _stated(fact: str) -> dict[str, Any]:
    """The values of a fact, by the names of the knobs that state it."""
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
