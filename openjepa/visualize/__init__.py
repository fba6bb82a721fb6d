"""Pictures: masks on real samples, PCA and similarity maps, nearest neighbours, curves, and the HTML report.

Everything is drawn outside matplotlib's global state and returned as arrays, Pillow images, figures or files.
matplotlib and jinja2 are the extra ``viz``; only curves and the report need them.
"""

from openjepa.visualize.animation import Film
from openjepa.visualize.curves import Panel, curves_figure, figure_png, panel_svg, panels
from openjepa.visualize.files import write_curves, write_masks, write_pca, write_similarity
from openjepa.visualize.maps import (
    PcaMaps,
    patch_features,
    pca_maps,
    pca_sheet,
    position_share,
    similarity,
    similarity_sheet,
)
from openjepa.visualize.masks import MaskPreview, mask_previews, mask_sheet, preview_masks
from openjepa.visualize.metrics import Metrics, read_metrics
from openjepa.visualize.neighbours import QueryRow, contact_sheet, neighbour_rows
from openjepa.visualize.report import ReportOptions, write_report
from openjepa.visualize.surprise import Surprise
from openjepa.visualize.tubes import TubePreview, preview_tubes, tube_film, tube_previews
from openjepa.visualize.video_files import write_surprise

__all__ = [
    "Film",
    "MaskPreview",
    "Metrics",
    "Panel",
    "PcaMaps",
    "QueryRow",
    "ReportOptions",
    "Surprise",
    "TubePreview",
    "contact_sheet",
    "curves_figure",
    "figure_png",
    "mask_previews",
    "mask_sheet",
    "neighbour_rows",
    "panel_svg",
    "panels",
    "patch_features",
    "pca_maps",
    "pca_sheet",
    "position_share",
    "preview_masks",
    "preview_tubes",
    "read_metrics",
    "similarity",
    "similarity_sheet",
    "tube_film",
    "tube_previews",
    "write_curves",
    "write_masks",
    "write_pca",
    "write_report",
    "write_similarity",
    "write_surprise",
]
