"""Build the network, its loss and its post-processing from a config."""

from collections.abc import Collection, Iterable

import torch

from models.backbones.build import build_backbone, check_backbone
from models.dino import DINO
from models.losses.class_losses import IABCE, MAL, ClassLoss, Focal, PositionSupervised, Varifocal
from models.losses.criterion import SetCriterion, build_weight_dict
from models.losses.matcher import HungarianMatcher
from models.ops.backends import choose_attention
from models.ops.native_library import has_compiler
from models.postprocess import PostProcess
from models.speed import compile_parts, set_speed
from models.transformer.decoder import DecoderLayer
from models.transformer.denoising import Denoiser
from models.transformer.encoder import EncoderLayer
from util.base.memory import keep_freed_memory
from util.config import Config
from util.config.schema import LossConfig, ModelConfig, SpeedConfig, resolved
from util.detection.class_map import IDENTITY, ClassMap


def build_model(
    config: Config, category_ids: Collection[int] | None = None, classes: ClassMap = IDENTITY
) -> tuple[DINO, SetCriterion, PostProcess]:
    """Build the network, its loss and its post-processing. Nothing is downloaded.

    Args:
        config: as from util.config.load.load_config.
        category_ids: the category ids of the data. With `restrict_to_categories`, no other id is selected, predicted
            or drawn as denoising noise.
        classes: their class indices.
    """
    ids = None
    if config.model.restrict_to_categories and category_ids is not None:
        ids = tuple(sorted(classes.indices(category_ids)))
    model = build_dino(config.model, ids, config.speed, use_padding=config.loss.dn_padding_loss)
    values = config.eval
    postprocess = PostProcess(values.num_select, values.nms_iou_threshold, ids, values.image_gate, classes)
    return model, build_criterion(config.loss, config.model), postprocess


def check_model(cfg: ModelConfig) -> None:
    """Refuse a network that cannot be built, before anything is loaded for it.

    Raises:
        ConfigError: there is no such backbone, or it does not have these settings.
    """
    check_backbone(cfg.backbone, norm=cfg.backbone_norm, freeze_at=cfg.backbone_freeze_at)


def speed_up(models: Iterable[DINO], speed: SpeedConfig, device: torch.device) -> str:
    """Compile the networks and set up memory by the config; lines for the log about what computes them.

    Args:
        models: all that will be called: the one in training and its average. Duplicates are allowed.
        speed: as in the config.
        device: where they will run.

    Raises:
        UserError: `attn_backend` cannot be used on the device.
    """
    name, objection = choose_attention(speed.attn_backend, device.type)
    why = f" (auto{f'; {objection}' if objection else ''})" if speed.attn_backend == "auto" else ""
    prefix = "warning: " if name == "sparse" and objection and has_compiler() else ""
    lines = [f"{prefix}deformable attention: {name}{why}"]
    if device.type == "cpu":
        keep_freed_memory(speed.fast_layers)
    if speed.compile != "off":
        reason = compile_parts({id(m): m for m in models}.values(), speed.compile, device)
        parts = "the backbone" if speed.compile == "backbone" else "the backbone and the layers of the transformer"
        lines.append(
            f"warning: compile='{speed.compile}' is not possible on this machine, continuing without it ({reason})"
            if reason
            else f"compiled at their first use, which takes minutes: {parts}"
        )
    return "\n".join(lines)


def build_dino(cfg: ModelConfig, ids: tuple[int, ...] | None, speed: SpeedConfig, *, use_padding: bool) -> DINO:
    """Build the network, freshly initialised; `ids` are the classes of the data, None for all.

    Raises:
        UserError: the number of classes is "auto" still.
    """
    num_classes = resolved(cfg.num_classes)
    backbone = build_backbone(
        cfg.backbone,
        norm=cfg.backbone_norm,
        freeze_at=cfg.backbone_freeze_at,
        return_interm_indices=cfg.return_interm_indices,
    )
    sizes = (cfg.hidden_dim, cfg.dim_feedforward, cfg.num_feature_levels, cfg.nheads)
    denoiser = Denoiser(
        dn_number=cfg.dn_number,
        label_noise_ratio=cfg.dn_label_noise_ratio,
        box_noise_scale=cfg.dn_box_noise_scale,
        num_queries=cfg.num_queries,
        category_ids=ids or tuple(range(num_classes)),
        use_padding=use_padding,
    )
    model = DINO(
        backbone,
        EncoderLayer(*sizes, cfg.enc_n_points, cfg.dropout, speed.attn_backend),
        DecoderLayer(*sizes, cfg.dec_n_points, cfg.dropout, speed.attn_backend),
        denoiser,
        hidden_dim=cfg.hidden_dim,
        enc_layers=cfg.enc_layers,
        dec_layers=cfg.dec_layers,
        num_classes=num_classes,
        num_queries=cfg.num_queries,
        num_feature_levels=cfg.num_feature_levels,
        dn_labelbook_size=resolved(cfg.dn_labelbook_size),
        category_ids=ids,
        temperature_h=cfg.pe_temperatureH,
        temperature_w=cfg.pe_temperatureW,
        image_head=cfg.image_head,
    )
    return set_speed(model, speed)


def build_criterion(cfg: LossConfig, model: ModelConfig) -> SetCriterion:
    """Build the matcher and the losses."""
    alpha, gamma = cfg.matcher_focal_alpha, cfg.matcher_focal_gamma
    matcher = HungarianMatcher(
        cost_class=cfg.set_cost_class,
        cost_bbox=cfg.set_cost_bbox,
        cost_giou=cfg.set_cost_giou,
        focal_alpha=cfg.focal_alpha if alpha is None else alpha,
        focal_gamma=cfg.focal_gamma if gamma is None else gamma,
    )
    weights = build_weight_dict(
        num_layers=model.dec_layers,
        base={
            "loss_ce": cfg.cls_loss_coef,
            "loss_bbox": cfg.bbox_loss_coef,
            "loss_giou": cfg.giou_loss_coef,
        },
        interm=cfg.interm_loss_coef,
        interm_boxes=not cfg.no_interm_box_loss,
        aux=cfg.aux_loss,
        denoising=model.dn_number > 0,
        image=cfg.image_loss_coef if model.image_head else None,
    )
    return SetCriterion(matcher, weights, class_loss=build_class_loss(cfg), dn_padding_loss=cfg.dn_padding_loss)


def build_class_loss(cfg: LossConfig) -> ClassLoss:
    """Build the class loss named by `cls_loss`, with its own knobs."""
    losses: dict[str, ClassLoss] = {
        "focal": Focal(cfg.focal_alpha, cfg.focal_gamma),
        "varifocal": Varifocal(cfg.varifocal_alpha, cfg.varifocal_gamma),
        "mal": MAL(cfg.mal_gamma),
        "ia_bce": IABCE(cfg.ia_bce_alpha, cfg.ia_bce_gamma),
        "position_supervised": PositionSupervised(cfg.position_supervised_gamma),
    }
    return losses[cfg.cls_loss]
