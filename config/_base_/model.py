"""The network of the paper on a ResNet-50. The number of classes belongs to the data set: coco.py, tbx11k.py."""

backbone = "resnet50"
backbone_norm = "frozen_bn"
backbone_freeze_at = 2
backbone_weights = "imagenet"
return_interm_indices = [1, 2, 3]
num_feature_levels = 4
pe_temperatureH = 20
pe_temperatureW = 20
hidden_dim = 256
nheads = 8
enc_layers = 6
dec_layers = 6
dim_feedforward = 2048
dropout = 0.0
enc_n_points = 4
dec_n_points = 4
num_queries = 900
dn_number = 100
dn_label_noise_ratio = 0.5
dn_box_noise_scale = 1.0  # as in every official launch script; the official config files have 0.4
image_head = False
