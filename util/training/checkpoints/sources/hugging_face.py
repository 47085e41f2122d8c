"""Names of Deformable DETR in transformers by Hugging Face, whose encoder, decoder layers and backbone DINO shares.

`model.` in front of most of them is gone, as that of other wrappers.
"""

from util.training.checkpoints.sources.source import Source

ENCODER = r"encoder\.layers\.(\d+)"
DECODER = r"decoder\.layers\.(\d+)"
ENCODER_LAYER = r"transformer.encoder.layers.\1"
DECODER_LAYER = r"transformer.decoder.layers.\1"
BACKBONE = r"backbone\.(?:conv_encoder\.)?model\.(?:_backbone\.)?"
BODY = "backbone.0.body"

# the ResNet of transformers; that of timm bears the names of torchvision
_STAGES = tuple(
    rule
    for stage in range(4)
    for convolution in range(3)
    for rule in (
        (
            rf"{BACKBONE}encoder\.stages\.{stage}\.layers\.(\d+)\.layer\.{convolution}\.convolution\.weight",
            rf"{BODY}.layer{stage + 1}.\1.conv{convolution + 1}.weight",
        ),
        (
            rf"{BACKBONE}encoder\.stages\.{stage}\.layers\.(\d+)\.layer\.{convolution}\.normalization\.(\w+)",
            rf"{BODY}.layer{stage + 1}.\1.bn{convolution + 1}.\2",
        ),
        (
            rf"{BACKBONE}encoder\.stages\.{stage}\.layers\.(\d+)\.shortcut\.convolution\.weight",
            rf"{BODY}.layer{stage + 1}.\1.downsample.0.weight",
        ),
        (
            rf"{BACKBONE}encoder\.stages\.{stage}\.layers\.(\d+)\.shortcut\.normalization\.(\w+)",
            rf"{BODY}.layer{stage + 1}.\1.downsample.1.\2",
        ),
    )
)

HUGGING_FACE = Source(
    name="Hugging Face (Deformable DETR)",
    marks=r"(encoder|decoder)\.layers\.\d+\.(self_attn|encoder_attn|final)_layer_norm\..+",
    rules=(
        (rf"{BACKBONE}((?:conv1|bn1|layer\d)\..+)", rf"{BODY}.\1"),
        (rf"{BACKBONE}embedder\.embedder\.convolution\.weight", rf"{BODY}.conv1.weight"),
        (rf"{BACKBONE}embedder\.embedder\.normalization\.(\w+)", rf"{BODY}.bn1.\1"),
        *_STAGES,
        (r"(input_proj\.\d+\.[01]\.\w+)", r"\1"),
        (r"(level_embed|enc_output\.\w+|enc_output_norm\.\w+)", r"transformer.\1"),
        (rf"{ENCODER}\.self_attn\.(.+)", rf"{ENCODER_LAYER}.self_attn.\2"),
        (rf"{ENCODER}\.(?:mlp\.)?fc([12])\.(\w+)", rf"{ENCODER_LAYER}.linear\2.\3"),
        (rf"{ENCODER}\.self_attn_layer_norm\.(\w+)", rf"{ENCODER_LAYER}.norm1.\2"),
        (rf"{ENCODER}\.final_layer_norm\.(\w+)", rf"{ENCODER_LAYER}.norm2.\2"),
        (rf"{DECODER}\.self_attn\.(?:out|o)_proj\.(\w+)", rf"{DECODER_LAYER}.self_attn.out_proj.\2"),
        (rf"{DECODER}\.self_attn\.([qkv]_proj\.\w+)", rf"{DECODER_LAYER}.self_attn.\2"),
        (rf"{DECODER}\.encoder_attn\.(.+)", rf"{DECODER_LAYER}.cross_attn.\2"),
        (rf"{DECODER}\.(?:mlp\.)?fc([12])\.(\w+)", rf"{DECODER_LAYER}.linear\2.\3"),
        (rf"{DECODER}\.self_attn_layer_norm\.(\w+)", rf"{DECODER_LAYER}.norm2.\2"),
        (rf"{DECODER}\.encoder_attn_layer_norm\.(\w+)", rf"{DECODER_LAYER}.norm1.\2"),
        (rf"{DECODER}\.final_layer_norm\.(\w+)", rf"{DECODER_LAYER}.norm3.\2"),
        (r"(?:decoder\.)?((?:class|bbox)_embed\.\d+\..+)", r"\1"),
    ),
    inexact=(
        "it is a Deformable DETR, without the content queries and the embedding of boxes of DINO; its position "
        "embedding has temperature 10000 and an offset of half a cell"
    ),
)
