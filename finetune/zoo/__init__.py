"""Pretrained backbones: zoo.yaml -> ModelCard -> Backbone (stages, taps, head, preprocessing)."""
