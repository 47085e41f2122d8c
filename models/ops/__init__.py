"""Multi-scale deformable attention: the layer, its definition, and faster backends."""
