import logging

from logitwatch.callbacks.alerts import Alerts
from logitwatch.sinks.readings import Alert, Scalars


def alert(rule, step=7, level="warning"):
    return Alert(rule=rule, step=step, level=level, title="Up", text="Cool it.")


def test_alerts_are_counted_by_rule_at_their_step():
    alerts = Alerts()
    first = alerts.counted([alert("a"), Scalars(values={"x": 1.0}, step=7), alert("b"), alert("a")])
    assert first[:4] == [alert("a"), Scalars(values={"x": 1.0}, step=7), alert("b"), alert("a")]
    assert [list(reading.values.items()) for reading in first[4:]] == [
        [("alerts/a", 1.0)],
        [("alerts/b", 1.0)],
        [("alerts/a", 2.0)],
    ]
    assert alerts.counted([alert("a", step=9)])[-1] == Scalars(values={"alerts/a": 3.0}, step=9)


def test_a_report_without_an_alert_is_left_as_it_is():
    readings = [Scalars(values={"x": 1.0}, step=7)]
    assert Alerts().counted(readings) == readings


def test_a_rule_is_logged_the_first_time_and_information_never(caplog):
    alerts = Alerts()
    with caplog.at_level(logging.WARNING, "logitwatch"):
        alerts.counted([alert("a"), alert("b", level="info")])
        alerts.counted([alert("a")])
    assert [record.getMessage() for record in caplog.records] == ["logitwatch: step 7: Up. Cool it."]
