from logitwatch.sinks.scalar_layout import scalar_layout


def tags_of(stage, *names):
    return [f"logits/{stage}/{name}" for name in names]


def test_a_band_waits_for_all_three_of_its_tags():
    assert scalar_layout(tags_of("train", "mean", "min")) == {}
    (band,) = scalar_layout(tags_of("train", "max", "mean", "min"))["Range of the logits"]
    assert band.band
    assert band.tags == ("logits/train/mean", "logits/train/min", "logits/train/max")


def test_training_comes_before_validation_and_strangers_last():
    tags = [tag for stage in ("zeta", "test", "val", "train") for tag in tags_of(stage, "entropy")]
    assert list(scalar_layout(tags)) == ["Logits: train", "Logits: val", "Logits: test", "Logits: zeta"]


def test_calibration_error_is_beside_its_null_floor():
    layout = scalar_layout(["calibration/val/ece", "calibration/val/null_ece", "calibration/val/nll"])
    assert layout["Calibration: val"][0].tags == ("calibration/val/ece", "calibration/val/null_ece")


def test_each_term_of_a_loss_has_its_place_in_the_charts_of_gradients():
    tags = [f"gradients/train/{q}/{term}" for q in ("term_norm", "term_cosine") for term in ("z_loss", "cross_entropy")]
    charts = scalar_layout(["gradients/train/norm", *tags])["Gradients: train"]
    assert [chart.tags for chart in charts] == [
        ("gradients/train/norm",),
        tuple(sorted(tags[:2])),
        tuple(sorted(tags[2:])),
    ]


def test_a_share_is_in_no_chart_of_nats():
    tags = ["losses/train/z_loss", "losses/train/soft_cap_saturation", "losses/train/cross_entropy"]
    charts = scalar_layout(tags)["Loss: train"]
    assert [chart.tags for chart in charts] == [(tags[2], tags[0]), (tags[1],)]
    assert [chart.tags for chart in scalar_layout(tags[1:2])["Loss: train"]] == [(tags[1],)]


def test_a_second_dataloader_adds_no_chart():
    assert scalar_layout(tags_of("val", "entropy/dataloader_idx_1")) == scalar_layout(tags_of("val", "entropy"))


def test_the_suite_watches_itself():
    layout = scalar_layout(["logitwatch/overhead", "logitwatch/faults", "alerts/b", "alerts/a"])
    assert [chart.tags for chart in layout["The suite itself"]] == [("logitwatch/overhead",), ("logitwatch/faults",)]
    assert layout["Alerts"][0].tags == ("alerts/a", "alerts/b")


def test_the_largest_attention_logit_is_beside_its_bound():
    layout = scalar_layout([f"attention/train/{name}" for name in ("max_logit_bound", "entropy", "max_logit", "rows")])
    largest, spread = layout["Attention: train"]
    assert largest.tags == ("attention/train/max_logit", "attention/train/max_logit_bound")
    assert spread.tags == ("attention/train/entropy",)
