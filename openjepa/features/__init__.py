"""What training, evaluation and pictures share: features of a source, their cache, neighbours, PCA and rank measures."""

from openjepa.features.extraction import Features, extract, pool, raw_pixels
from openjepa.features.neighbours import cosine_topk
from openjepa.features.pca import Colours, Pca, fit_pca, split_foreground, to_colours
from openjepa.features.rank import feature_std, mean_cosine, participation_ratio, rankme
from openjepa.features.store import cached_extract, cached_raw_pixels, weights_hash

__all__ = [
    "Colours",
    "Features",
    "Pca",
    "cached_extract",
    "cached_raw_pixels",
    "cosine_topk",
    "extract",
    "feature_std",
    "fit_pca",
    "mean_cosine",
    "participation_ratio",
    "pool",
    "rankme",
    "raw_pixels",
    "split_foreground",
    "to_colours",
    "weights_hash",
]
