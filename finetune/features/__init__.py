"""Features of frozen backbones: extraction and cache, scaling, and the linear heads solved on them."""
