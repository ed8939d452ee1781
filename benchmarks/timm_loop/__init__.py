"""mmfm beside a plain training loop around a model of timm."""
