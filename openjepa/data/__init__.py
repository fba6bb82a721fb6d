"""Sources, readers, transforms and resumable sampling of images and clips; the built-in scenes; inspection of a user's data."""

from openjepa.data.cache import MemoryCache, with_cache
from openjepa.data.clip_transforms import ClipEvalTransform, ClipTransform, FrameTransform
from openjepa.data.clips import Clips, Timeline, UnreadableVideoError
from openjepa.data.inspection import Inspection, Verification, inspect, verify
from openjepa.data.loading import JointLoader, Loader, read_batches
from openjepa.data.readers import IMAGE_SUFFIXES, MAX_PIXELS, read_image
from openjepa.data.sampling import Sampler, Selection
from openjepa.data.scenes import Scene, SceneSource, draw, render
from openjepa.data.sources import FileSource, Source, Subset, holdout, labels_of, open_source, with_clips, with_hint
from openjepa.data.transforms import EvalTransform, Normalise, TrainTransform
from openjepa.data.video import VideoFile
from openjepa.data.video_source import VideoSource
from openjepa.data.views import Views, eval_transform, panel_transform, train_transform
from openjepa.data.workers import auto_workers

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "ClipEvalTransform",
    "ClipTransform",
    "Clips",
    "EvalTransform",
    "FileSource",
    "FrameTransform",
    "Inspection",
    "JointLoader",
    "Loader",
    "MemoryCache",
    "Normalise",
    "Sampler",
    "Scene",
    "SceneSource",
    "Selection",
    "Source",
    "Subset",
    "Timeline",
    "TrainTransform",
    "UnreadableVideoError",
    "Verification",
    "VideoFile",
    "VideoSource",
    "Views",
    "auto_workers",
    "draw",
    "eval_transform",
    "holdout",
    "inspect",
    "labels_of",
    "open_source",
    "panel_transform",
    "read_batches",
    "read_image",
    "render",
    "train_transform",
    "verify",
    "with_cache",
    "with_clips",
    "with_hint",
]
