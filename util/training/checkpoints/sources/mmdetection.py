"""Names of DINO in MMDetection 3; its ResNet bears the names of torchvision."""

from util.training.checkpoints.sources.source import Source

ENCODER = r"encoder\.layers\.(\d+)"
DECODER = r"decoder\.layers\.(\d+)"
ENCODER_LAYER = r"transformer.encoder.layers.\1"
DECODER_LAYER = r"transformer.decoder.layers.\1"

MMDETECTION = Source(
    name="MMDetection",
    marks=r"memory_trans_fc\.weight|bbox_head\.(cls|reg)_branches\..+",
    rules=(
        (r"backbone\.((?:conv1|bn1|layer\d)\..+)", r"backbone.0.body.\1"),
        (r"neck\.convs\.(\d+)\.conv\.(\w+)", r"input_proj.\1.0.\2"),
        (r"neck\.convs\.(\d+)\.gn\.(\w+)", r"input_proj.\1.1.\2"),
        (r"neck\.extra_convs\.(\d+)\.conv\.(\w+)", r"input_proj.+\1.0.\2"),
        (r"neck\.extra_convs\.(\d+)\.gn\.(\w+)", r"input_proj.+\1.1.\2"),
        (r"level_embed", "transformer.level_embed"),
        (rf"{ENCODER}\.self_attn\.(.+)", rf"{ENCODER_LAYER}.self_attn.\2"),
        (rf"{ENCODER}\.ffn\.layers\.0\.0\.(\w+)", rf"{ENCODER_LAYER}.linear1.\2"),
        (rf"{ENCODER}\.ffn\.layers\.1\.(\w+)", rf"{ENCODER_LAYER}.linear2.\2"),
        (rf"{ENCODER}\.norms\.0\.(\w+)", rf"{ENCODER_LAYER}.norm1.\2"),
        (rf"{ENCODER}\.norms\.1\.(\w+)", rf"{ENCODER_LAYER}.norm2.\2"),
        (rf"{DECODER}\.self_attn\.attn\.(.+)", rf"{DECODER_LAYER}.self_attn.\2"),
        (rf"{DECODER}\.cross_attn\.(.+)", rf"{DECODER_LAYER}.cross_attn.\2"),
        (rf"{DECODER}\.ffn\.layers\.0\.0\.(\w+)", rf"{DECODER_LAYER}.linear1.\2"),
        (rf"{DECODER}\.ffn\.layers\.1\.(\w+)", rf"{DECODER_LAYER}.linear2.\2"),
        (rf"{DECODER}\.norms\.0\.(\w+)", rf"{DECODER_LAYER}.norm2.\2"),  # the norms stand in the order of use there
        (rf"{DECODER}\.norms\.1\.(\w+)", rf"{DECODER_LAYER}.norm1.\2"),
        (rf"{DECODER}\.norms\.2\.(\w+)", rf"{DECODER_LAYER}.norm3.\2"),
        (r"(decoder\.(?:norm|ref_point_head)\..+)", r"transformer.\1"),
        (r"query_embedding\.weight", "transformer.tgt_embed.weight"),
        (r"memory_trans_fc\.(\w+)", r"transformer.enc_output.\1"),
        (r"memory_trans_norm\.(\w+)", r"transformer.enc_output_norm.\1"),
        (r"bbox_head\.cls_branches\.(\d+)\.(\w+)", r"class_embed.\1.\2"),
        *(
            (rf"bbox_head\.reg_branches\.(\d+)\.{2 * i}\.(\w+)", rf"bbox_embed.\1.layers.{i}.\2")  # ReLUs between
            for i in range(3)
        ),
        (r"dn_query_generator\.label_embedding\.weight", "label_enc.weight"),
    ),
)
