"""The label-free scores of the literature, each at a stated layer and with a stated direction.

Directions were fixed from the sources named here, before any label of ours was looked at. The base
paper is "Geometry of Reason" (arXiv 2601.00791); its released figures are those of its repository,
which give means of valid and of invalid MiniF2F proofs for every layer of eight models.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from validator.errors import FeatureMismatchError
from validator.types import FeatureMatrix
from validator.unsupervised.diagnostics import DiagnosticScore
from validator.unsupervised.ranks import mean_rank
from validator.unsupervised.reference import METHODS, ReferenceDistance

__all__ = ["PRESETS", "available_presets", "score_label_free"]

HFER = ("2601.00791: HFER reranking, whose repository takes the lowest first; in its released "
        "figures valid proofs have the lower mean in most layers of all 8 models")
FIEDLER = ("2601.00791: no direction found in words; in its released figures valid proofs have the "
           "higher mean in most layers of 7 of 8 models")
SMOOTHNESS = ("2601.00791: valid proofs are smooth, late layers of Mistral-7B d = +2.09; but in "
              "its released figures they are smoother in most layers of only 3 of 8 models")
ROUGHNESS = "our convention: the opposite of smoothness, which is 1 - roughness / lambda_max"
ENTROPY = ("our convention: energy gathered in few modes is order; in the released figures of "
           "2601.00791 valid proofs have the lower mean in most layers of 4 of 8 models, the "
           "higher in 3")
SELF_ATTENTION = ("LLM-Check (NeurIPS 2024): its released evaluation on FAVA takes minus the "
                  "attention score as the score of a hallucination")
ATTENTION_ENTROPY = ("our convention: spread attention is uncertainty; Attention Head Entropy "
                     "(arXiv 2602.13699) fits a sign for each head")
LOOKBACK = ("our reading of Lookback Lens (EMNLP 2024): hallucinations attend less to the context; "
            "the paper itself fits a sign for each head")
LIKELY = "the model's own confidence: likelier text is more valid"
SHORT = "our convention: a longer solution has more places to go wrong"

PRESETS: Mapping[str, DiagnosticScore] = {
    "fiedler_value": DiagnosticScore("fiedler_value", direction=1, source=FIEDLER),
    "hfer": DiagnosticScore("hfer_c0.5", signal="hidden", direction=-1, source=HFER),
    "signal_entropy": DiagnosticScore("signal_entropy", signal="hidden", direction=-1,
                                      source=ENTROPY),
    "roughness": DiagnosticScore("roughness", signal="hidden", direction=-1, source=ROUGHNESS),
    "smoothness": DiagnosticScore("smoothness", signal="hidden", direction=1, source=SMOOTHNESS),
    "paper_fiedler_value": DiagnosticScore(
        "fiedler_value", span="whole", options=("combinatorial",), direction=1, source=FIEDLER),
    "paper_hfer": DiagnosticScore(
        "hfer_c0.5", span="whole", options=("combinatorial",), signal="hidden", direction=-1,
        source=HFER),
    "paper_signal_entropy": DiagnosticScore(
        "signal_entropy", span="whole", options=("combinatorial",), signal="hidden", direction=-1,
        source=ENTROPY),
    "paper_smoothness": DiagnosticScore(
        "smoothness", span="whole", options=("combinatorial",), signal="hidden", direction=1,
        source=SMOOTHNESS),
    "log_self_attention": DiagnosticScore(
        "log_self_attention", graph="heads", direction=1, source=SELF_ATTENTION),
    "attention_entropy": DiagnosticScore(
        "attention_entropy_quantile_q0.5", graph="heads", direction=-1, source=ATTENTION_ENTROPY),
    "lookback_ratio": DiagnosticScore(
        "lookback_ratio", graph="heads", direction=1, source=LOOKBACK),
    "mean_logprob": DiagnosticScore("mean_logprob", layer=None, direction=1, source=LIKELY),
    "min_logprob": DiagnosticScore("min_logprob", layer=None, direction=1, source=LIKELY),
    "mean_token_entropy": DiagnosticScore("mean_token_entropy", layer=None, direction=-1,
                                          source=LIKELY),
    "completion_length": DiagnosticScore("completion_length", layer=None, direction=-1,
                                         source=SHORT),
}
"""Name -> score. All but the baselines at the end are means over the layers that were read, which
needs no label; ``paper_`` is the graph of the base paper's equations (whole trace, L = D - W), the
first five the same diagnostics on the completion's graph."""


def available_presets(features: FeatureMatrix) -> tuple[dict[str, DiagnosticScore],
                                                        dict[str, str]]:
    """The presets whose columns the matrix holds, and why each of the others cannot be used."""
    usable: dict[str, DiagnosticScore] = {}
    reasons: dict[str, str] = {}
    for name, preset in PRESETS.items():
        try:
            preset.columns(features.names)
        except FeatureMismatchError as error:
            reasons[name] = f"feature set {features.provenance.feature_set}: {error}"
        else:
            usable[name] = preset
    return usable, reasons


def score_label_free(features: FeatureMatrix, reference: FeatureMatrix | None = None
                     ) -> dict[str, NDArray[np.float64]]:
    """Every label-free score of N traces by name, (N,) float64 each; higher is more valid.

    Those of :func:`available_presets`; ``ensemble``, the mean rank among these traces of the usable
    presets that are no baselines, where there is one; and with ``reference``, traces that are
    unlabelled or known to be valid, ``distance_<method>`` with the defaults of
    :class:`ReferenceDistance`. NaN where a score is undefined for a trace.
    Raises ParameterError for a reference that is too small or holds some of the traces but not all,
    FeatureMismatchError for one of another model or feature set.
    """
    usable, _ = available_presets(features)
    scores = {name: preset.score(features) for name, preset in usable.items()}
    diagnostics = [scores[name] for name, preset in usable.items() if preset.layer is not None]
    if diagnostics:
        scores["ensemble"] = mean_rank(diagnostics)
    if reference is not None:
        for method in METHODS:
            distance = ReferenceDistance(method).fit(reference)
            scores[f"distance_{method}"] = distance.score(features)
    return scores
