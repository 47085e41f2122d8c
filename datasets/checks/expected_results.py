"""What a training with the tbx11k recipes is expected to reach on TBX11K."""

from util.doctor.expectations import ExpectedResults

EXPECTED_RESULTS = ExpectedResults(
    dataset_file="tbx11k",
    min_train_images=6000,  # the training list has 6600
    finite_steps=1000,
    ap_by_epoch=((10, 12, 0.05, 0.12), (50, 50, 0.18, 0.25)),
)
