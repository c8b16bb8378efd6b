"""Unit and meaning of every quantity the suite logs, stated once: sinks, reports and the README read it here."""

from typing import NamedTuple

__all__ = ["QUANTITIES", "Quantity", "describe"]


class Quantity(NamedTuple):
    """Unit and one-line meaning of a logged number."""

    unit: str
    meaning: str


QUANTITIES: dict[str, Quantity] = {
    "logits/max": Quantity("logit", "largest logit, exact over every row of the steps looked at"),
    "logits/min": Quantity("logit", "smallest logit of a present class, exact over every row of the steps looked at"),
    "logits/mean": Quantity("logit", "mean of all logits of the rows"),
    "logits/std": Quantity("logit", "standard deviation of all logits of the rows"),
    "logits/norm": Quantity("logit", "mean Euclidean norm of a row of logits"),
    "logits/log_partition": Quantity("nats", "mean log of the softmax normaliser; drifts where nothing holds it"),
    "logits/entropy": Quantity("nats", "mean entropy of the predictions; ln(classes) is undecided, 0 is certain"),
    "logits/confidence": Quantity("fraction", "mean probability of the predicted class"),
    "logits/margin": Quantity("nats", "mean gap between the two largest logits"),
    "logits/nll": Quantity("nats", "mean negative log-likelihood of the target"),
    "logits/accuracy": Quantity("fraction", "share of rows whose largest logit is the target"),
    "logits/overconfidence": Quantity(
        "nats", "NLL less entropy: 0 when calibrated in expectation, above it over-confident"
    ),
    "logits/nonfinite": Quantity("rows", "rows with NaN, +inf or no present class, exact over the steps looked at"),
    "logits/saturation": Quantity("fraction", "share of rows whose two largest logits tie in the type they came in"),
    "logits/rows": Quantity("rows", "rows of the steps looked at"),
    "logits/ignored": Quantity("rows", "rows whose target is ignore_index"),
    "logits/bad_target": Quantity("rows", "rows whose target is outside the classes and not ignore_index"),
    "logits/histogram": Quantity("logit", "distribution of the logits"),
    "logits/margin_histogram": Quantity("nats", "distribution of the gap between the two largest logits"),
    "logits/confidence_histogram": Quantity("fraction", "distribution of the probability of the predicted class"),
    "logits/entropy_histogram": Quantity("nats", "distribution of the entropy of the predictions"),
    "calibration/ece": Quantity(
        "fraction", "expected calibration error, 15 equal bins: mean gap of confidence and accuracy"
    ),
    "calibration/null_ece": Quantity("fraction", "the ECE a perfectly calibrated model would show at these counts"),
    "calibration/adaptive_ece": Quantity("fraction", "expected calibration error, 15 bins of equally many rows"),
    "calibration/debiased_ece": Quantity(
        "fraction²", "squared calibration error without its bias: around 0, also below, when calibrated"
    ),
    "calibration/smooth_ece": Quantity("fraction", "calibration error smoothed by a Gaussian as wide as the error"),
    "calibration/ks_error": Quantity(
        "fraction", "largest gap of confidence and accuracy, summed from the least confident row up"
    ),
    "calibration/aurc": Quantity("fraction", "mean error when only the most confident rows are answered"),
    "calibration/gap": Quantity("fraction", "mean confidence less accuracy: above 0 over-confident"),
    "calibration/train_gap": Quantity(
        "fraction", "the gap less that of the training rows: confidence that does not carry over"
    ),
    "calibration/temperature": Quantity("", "logits divided by this have the smallest NLL; above 1 over-confident"),
    "calibration/refinement": Quantity(
        "nats", "NLL at the best temperature: what is left when calibration is perfect. Stop early on this"
    ),
    "calibration/positions": Quantity("", "calibration by position in the sequence: where a model grows too sure"),
    "calibration/brier_score": Quantity("", "squared distance of probabilities to the target, summed over classes"),
    "calibration/nll": Quantity("nats", "mean negative log-likelihood of the target"),
    "calibration/accuracy": Quantity("fraction", "share of rows whose largest logit is the target"),
    "calibration/confidence": Quantity("fraction", "mean probability of the predicted class"),
    "calibration/reliability": Quantity("fraction", "accuracy against confidence; the diagonal is perfect calibration"),
    "stability/absmax": Quantity("logit", "largest magnitude of a logit, exact over every row of the steps looked at"),
    "stability/range_used": Quantity("fraction", "the largest magnitude over what the type of the logits can hold"),
    "stability/near_ties": Quantity(
        "fraction", "share of rows whose two largest logits are neighbours in the type they came in, or equal"
    ),
    "stability/top_class": Quantity("fraction", "share of the rows that the class predicted most often has"),
    "stability/skipped_steps": Quantity("steps", "optimizer steps left out, as a gradient was not finite"),
    "gradients/norm": Quantity(
        "", "mean norm of the gradient of the cross-entropy on a row of logits: probabilities less the target"
    ),
    "gradients/histogram": Quantity("", "distribution of the norm of the gradient on a row of logits"),
    "gradients/vanishing": Quantity("fraction", "share of rows whose gradient on the logits has all but vanished"),
    "gradients/hardest_tenth": Quantity(
        "fraction", "share of the gradient that the hardest tenth of the rows holds: 0.1 when all pull alike"
    ),
    "gradients/largest_class": Quantity(
        "fraction", "share of the gradient on the logits that one class holds: 1 / classes when all are alike"
    ),
    "gradients/classes": Quantity(
        "", "the classes that hold most of the gradient on the logits: pulled up as a target, pushed down as a rival"
    ),
    "gradients/head": Quantity("", "which linear layer makes the logits, and the proof of it"),
    "gradients/logit_scale": Quantity(
        "logit", "root mean square of the logits without the bias: head_norm times feature_norm times alignment"
    ),
    "gradients/head_norm": Quantity("", "root mean square norm of a row of the weight that makes the logits"),
    "gradients/feature_norm": Quantity("", "mean norm of the features the logits are made of"),
    "gradients/alignment": Quantity(
        "fraction", "how far the features point where the weight is large: what the two norms leave of the logit scale"
    ),
    "gradients/term_norm": Quantity(
        "", "root mean square norm of the gradient of a term of the loss on a row of logits, weight included"
    ),
    "gradients/term_cosine": Quantity(
        "", "cosine of the gradient of a term of the loss with that of cross-entropy: below 0 the term fights it"
    ),
    "dropout/predictive_entropy": Quantity("nats", "mean entropy of the prediction averaged over passes with dropout"),
    "dropout/expected_entropy": Quantity("nats", "mean entropy of the prediction of one pass with dropout"),
    "dropout/mutual_information": Quantity(
        "nats", "predictive less expected entropy: how far passes with dropout disagree, what the model does not know"
    ),
    "dropout/logit_variance": Quantity("logit²", "mean variance of a logit over passes with dropout"),
    "dropout/histogram": Quantity("logit²", "distribution over rows of the variance of a logit under dropout"),
    "dropout/rows": Quantity("rows", "rows that were probed with dropout"),
    "dropout/nonfinite": Quantity("rows", "probed rows with a logit that is not finite in some pass, left out"),
    "attention/max_logit": Quantity(
        "logit", "largest |logit| of an attention head in the query rows looked at: the true one is no smaller"
    ),
    "attention/max_logit_bound": Quantity(
        "logit", "what no |logit| of an attention head exceeds in the batches looked at, from norms of queries and keys"
    ),
    "attention/entropy": Quantity(
        "fraction", "mean entropy of an attention row over that of looking at all its keys alike: near 0 at one key"
    ),
    "attention/entropy_min": Quantity("fraction", "the same of the attention head that looks least around"),
    "attention/max_logit_by_head": Quantity("logit", "largest |logit| of the query rows looked at, layer by head"),
    "attention/entropy_by_head": Quantity("fraction", "mean entropy of an attention row, layer by head"),
    "attention/rows": Quantity("rows", "query rows of all attention heads that were looked at"),
    "attention/nonfinite": Quantity("rows", "query rows with a NaN or an infinite attention logit"),
    "attention/unread": Quantity("count", "calls of attention that could not be read"),
    "attention/left_out": Quantity("count", "attention heads, each time they were seen, that have no place"),
    "recalibration/nll_before": Quantity("nats", "NLL of the held-out rows as they are"),
    "recalibration/nll_after": Quantity("nats", "NLL of the same rows under a calibrator fitted to others"),
    "recalibration/ece_before": Quantity("fraction", "expected calibration error of the held-out rows as they are"),
    "recalibration/ece_after": Quantity(
        "fraction", "expected calibration error of the same rows under a calibrator fitted to others"
    ),
    "recalibration/smooth_ece_before": Quantity("fraction", "SmoothECE of the held-out rows as they are"),
    "recalibration/smooth_ece_after": Quantity(
        "fraction", "SmoothECE of the same rows under a calibrator fitted to others"
    ),
    "recalibration/diagram": Quantity("fraction", "reliability before and after, of rows the calibrator has not seen"),
    "recalibration/temperature": Quantity("", "temperature of the calibrator in the checkpoint"),
    "recalibration/rows": Quantity("rows", "held-out rows the calibrator was fitted to"),
    "losses/term": Quantity("nats", "mean value of one term of a composed loss, weight included"),
    "losses/soft_cap_saturation": Quantity(
        "fraction", "share of logits so far beyond the soft cap that less than a tenth of their gradient comes through"
    ),
    "logitwatch/overhead": Quantity("fraction", "time spent in the suite as a fraction of the step time"),
    "logitwatch/coverage": Quantity("fraction", "share of the rows trained on whose distribution was looked at"),
    "logitwatch/faults": Quantity("count", "exceptions of the suite that were isolated"),
    "logitwatch/dropped": Quantity("count", "readings a sink could not take"),
}


_ALERTS = Quantity("count", "how often this rule has raised its alert")


def describe(tag: str) -> Quantity:
    """Unit and meaning of a tag such as ``logits/val/entropy/dataloader_idx_1``; empty for an unknown one.

    Examples:
        >>> describe("logits/val/entropy/dataloader_idx_1").unit, describe("somebody/else").unit
        ('nats', '')
    """
    # family/<stage>/<quantity>, then perhaps a source and a data loader; what the suite says of itself has no stage
    family, *rest = tag.split("/")
    name = rest[min(1, len(rest) - 1)] if rest else ""
    if family == "alerts":
        return _ALERTS
    if family == "losses" and f"losses/{name}" not in QUANTITIES:
        name = "term"
    return QUANTITIES.get(f"{family}/{name}", Quantity("", ""))
