"""Names of DINO in detrex (projects/dino), whose ResNet is detectron2's."""

from util.training.checkpoints.sources.source import Source

ENCODER = r"transformer\.encoder\.layers\.(\d+)"
DECODER = r"transformer\.decoder\.layers\.(\d+)"
LAYER = r"transformer.encoder.layers.\1"
DECODER_LAYER = r"transformer.decoder.layers.\1"
BODY = "backbone.0.body"

_STAGES = tuple(
    rule
    for stage in range(1, 5)
    for rule in (
        (rf"backbone\.res{stage + 1}\.(\d+)\.conv(\d)\.weight", rf"{BODY}.layer{stage}.\1.conv\2.weight"),
        (rf"backbone\.res{stage + 1}\.(\d+)\.conv(\d)\.norm\.(\w+)", rf"{BODY}.layer{stage}.\1.bn\2.\3"),
        (rf"backbone\.res{stage + 1}\.(\d+)\.shortcut\.weight", rf"{BODY}.layer{stage}.\1.downsample.0.weight"),
        (rf"backbone\.res{stage + 1}\.(\d+)\.shortcut\.norm\.(\w+)", rf"{BODY}.layer{stage}.\1.downsample.1.\2"),
    )
)

DETREX = Source(
    name="detrex",
    marks=r"transformer\.(encoder|decoder)\.layers\.\d+\.(attentions|ffns)\..+",
    rules=(
        (r"backbone\.stem\.conv1\.weight", rf"{BODY}.conv1.weight"),
        (r"backbone\.stem\.conv1\.norm\.(\w+)", rf"{BODY}.bn1.\1"),
        *_STAGES,
        (r"backbone\.((?:patch_embed|layers|norm\d)\..+)", r"backbone.0.\1"),  # Swin
        (r"neck\.convs\.(\d+)\.conv\.(\w+)", r"input_proj.\1.0.\2"),
        (r"neck\.convs\.(\d+)\.norm\.(\w+)", r"input_proj.\1.1.\2"),
        (r"neck\.extra_convs\.(\d+)\.conv\.(\w+)", r"input_proj.+\1.0.\2"),
        (r"neck\.extra_convs\.(\d+)\.norm\.(\w+)", r"input_proj.+\1.1.\2"),
        (r"transformer\.level_embeds", "transformer.level_embed"),
        (rf"{ENCODER}\.attentions\.0\.(.+)", rf"{LAYER}.self_attn.\2"),
        (rf"{ENCODER}\.ffns\.0\.layers\.0\.0\.(\w+)", rf"{LAYER}.linear1.\2"),
        (rf"{ENCODER}\.ffns\.0\.layers\.1\.(\w+)", rf"{LAYER}.linear2.\2"),
        (rf"{ENCODER}\.norms\.0\.(\w+)", rf"{LAYER}.norm1.\2"),
        (rf"{ENCODER}\.norms\.1\.(\w+)", rf"{LAYER}.norm2.\2"),
        (rf"{DECODER}\.attentions\.0\.attn\.(.+)", rf"{DECODER_LAYER}.self_attn.\2"),
        (rf"{DECODER}\.attentions\.1\.(.+)", rf"{DECODER_LAYER}.cross_attn.\2"),
        (rf"{DECODER}\.ffns\.0\.layers\.0\.0\.(\w+)", rf"{DECODER_LAYER}.linear1.\2"),
        (rf"{DECODER}\.ffns\.0\.layers\.1\.(\w+)", rf"{DECODER_LAYER}.linear2.\2"),
        (rf"{DECODER}\.norms\.0\.(\w+)", rf"{DECODER_LAYER}.norm2.\2"),  # the norms stand in the order of use there
        (rf"{DECODER}\.norms\.1\.(\w+)", rf"{DECODER_LAYER}.norm1.\2"),
        (rf"{DECODER}\.norms\.2\.(\w+)", rf"{DECODER_LAYER}.norm3.\2"),
        (r"(?:transformer\.decoder\.)?((?:class|bbox)_embed\.\d+\..+)", r"\1"),
        (r"(transformer\.(?:decoder\.(?:norm|ref_point_head)|tgt_embed|enc_output|enc_output_norm)\..+)", r"\1"),
        (r"(label_enc\.weight)", r"\1"),
    ),
    inexact=(
        "its position embedding has temperature 10000 and an offset of half a cell (here: pe_temperatureH and "
        "pe_temperatureW, without an offset)"
    ),
)
