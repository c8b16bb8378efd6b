from logitwatch.sinks.notices import Notices


def test_a_kind_is_remarked_on_once(caplog):
    notices = Notices("CSVLogger")
    for _ in range(3):
        notices.once("Histogram", "not shown")
    notices.once("Text", "not shown either")
    assert [record.message for record in caplog.records] == ["CSVLogger: not shown", "CSVLogger: not shown either"]
    assert {record.name for record in caplog.records} == {"logitwatch"}


def test_two_sinks_speak_for_themselves(caplog):
    Notices("A").once("Text", "no")
    Notices("B").once("Text", "no")
    assert len(caplog.records) == 2
