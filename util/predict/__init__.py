"""Prediction on image files: list the inputs, detect, and write tables, a page and images with boxes; needs torch."""

from util.predict.inputs import Listing, list_images, match_image_ids, number_images
from util.predict.outputs import OutputSettings, require_prediction_folder
from util.predict.prediction import predict_images
from util.predict.survey import survey_images

__all__ = [
    "Listing",
    "OutputSettings",
    "list_images",
    "match_image_ids",
    "number_images",
    "predict_images",
    "require_prediction_folder",
    "survey_images",
]
