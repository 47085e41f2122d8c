"""Speed of the computation; results are the same up to rounding."""

attn_backend = "auto"
fast_layers = True
channels_last = False
compile = "off"
activation_checkpointing = False
