"""Average precision and its matching as COCO defines them."""
