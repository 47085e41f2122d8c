"""How fast it is computed; the numbers stay the same up to rounding."""

attn_backend = "auto"
fast_layers = True
channels_last = False
compile = "off"
activation_checkpointing = False
