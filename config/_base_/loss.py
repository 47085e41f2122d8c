"""The loss of the paper."""

cls_loss = "focal"
focal_alpha = 0.25
focal_gamma = 2.0
varifocal_alpha = 0.75  # the loss variants below: values of their papers
varifocal_gamma = 2.0
mal_gamma = 1.5
ia_bce_alpha = 0.25
ia_bce_gamma = 2.0
position_supervised_gamma = 2.0
num_boxes_norm = "window"
num_boxes_momentum = 0.9
image_loss_coef = 0.0
matcher_focal_alpha = None
matcher_focal_gamma = None
set_cost_class = 2.0
set_cost_bbox = 5.0
set_cost_giou = 2.0
cls_loss_coef = 1.0
bbox_loss_coef = 5.0
giou_loss_coef = 2.0
interm_loss_coef = 1.0
no_interm_box_loss = False
aux_loss = True
