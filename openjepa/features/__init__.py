"""What training, evaluation and pictures share: features of a source, their cache, neighbours, PCA and rank measures."""

from openjepa.features.clips import Across, ClipOptions, input_of, views_of
from openjepa.features.extraction import Features, extract, pool, raw_pixels
from openjepa.features.frames import EachFrame, FrameAveraged, frame_by_frame
from openjepa.features.lidar import lidar
from openjepa.features.neighbours import broken_rows, cosine_topk
from openjepa.features.pca import Colours, Pca, fit_pca, split_foreground, to_colours
from openjepa.features.place import cache_note, cache_place, cache_size
from openjepa.features.rank import feature_std, mean_cosine, participation_ratio, rankme, rankme_of
from openjepa.features.sliding import Window, WindowFeatures, sliding
from openjepa.features.spectrum import alpha_of, alpha_req, singular_values
from openjepa.features.store import cached_extract, cached_raw_pixels, weights_hash

__all__ = [
    "Across",
    "ClipOptions",
    "Colours",
    "EachFrame",
    "Features",
    "FrameAveraged",
    "Pca",
    "Window",
    "WindowFeatures",
    "alpha_of",
    "alpha_req",
    "broken_rows",
    "cache_note",
    "cache_place",
    "cache_size",
    "cached_extract",
    "cached_raw_pixels",
    "cosine_topk",
    "extract",
    "feature_std",
    "fit_pca",
    "frame_by_frame",
    "input_of",
    "lidar",
    "mean_cosine",
    "participation_ratio",
    "pool",
    "rankme",
    "rankme_of",
    "raw_pixels",
    "singular_values",
    "sliding",
    "split_foreground",
    "to_colours",
    "views_of",
    "weights_hash",
]
