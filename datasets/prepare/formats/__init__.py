"""Formats of annotations in a folder of anybody's data: COCO, YOLO, Pascal VOC, CSV."""
