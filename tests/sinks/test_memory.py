from helpers.reports import every_kind

from logitwatch.sinks.memory import MemorySink
from logitwatch.sinks.protocol import Sink
from logitwatch.sinks.readings import Scalars


def test_every_reading_is_kept_in_order():
    sink, report = MemorySink(), every_kind()
    sink.write(report)
    sink.write([])
    assert sink.readings == report
    assert sink.reports == 2


def test_the_history_of_a_scalar_is_its_steps_and_values():
    sink = MemorySink()
    sink.write([Scalars(values={"a": 1.0, "b": 2.0}, step=1)])
    sink.close()
    sink.write([Scalars(values={"a": 3.0}, step=5)])
    assert sink.history == {"a": [(1, 1.0), (5, 3.0)], "b": [(1, 2.0)]}


def test_it_is_a_sink():
    assert isinstance(MemorySink(), Sink)
