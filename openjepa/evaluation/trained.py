"""The evaluators that train something by gradient, as entries of ``EVALUATORS``."""

from __future__ import annotations

from openjepa.evaluation import anticipation, attentive, finetune, linear_grid
from openjepa.evaluation.request import Evaluator

TRAINED = (
    Evaluator(linear_grid.NAME, linear_grid.run, help="accuracy of a linear head chosen among lr × weight decay"),
    Evaluator(
        attentive.NAME, attentive.run, "encoder", "attentive probe on patch tokens, chosen among lr × weight decay"
    ),
    Evaluator(attentive.FOUR, attentive.run_four, "encoder", "the same with three self-attention blocks before it"),
    Evaluator(attentive.MEAN, attentive.run_mean, "encoder", "the same training on averaged tokens, to compare with"),
    Evaluator(
        anticipation.NAME,
        anticipation.run,
        "encoder",
        "class of a video from what comes before, with and without what the predictor expects",
        video=True,
        predictor=True,
        sees="one clip",
    ),
    Evaluator(finetune.NAME, finetune.run, "encoder", "accuracy after training the encoder too, layer-wise rates"),
)
