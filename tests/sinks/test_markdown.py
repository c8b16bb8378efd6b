import math

import markdown
import pytest

from logitwatch.sinks.markdown import alert_markdown, escaped, table_markdown
from logitwatch.sinks.readings import Alert


@pytest.mark.parametrize(
    "text", ["*a*", "_b_", "`c`", "[d](http://e)", "<script>f</script>", "# g", "1. h", "a | b", "\\", "&lt;"]
)
def test_escaped_text_renders_as_itself(text):
    rendered = markdown.markdown(escaped(text), extensions=["tables"])
    entities = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")
    assert rendered in (f"<p>{entities}</p>", f"<p>{entities.replace(chr(92) + '|', '|')}</p>")


def test_a_cell_cannot_leave_its_table():
    rendered = markdown.markdown(table_markdown(["a|b", "c"], [["x|y\nz", 1.0]]), extensions=["tables"])
    assert rendered.count("<th>") == 2
    assert rendered.count("<td>") == 2
    assert "x|y z" in rendered


def test_numbers_that_are_not_finite_are_named():
    assert table_markdown(["v"], [[math.nan], [math.inf], [-math.inf], [3]]).splitlines()[2:] == [
        "| NaN |",
        "| ∞ |",
        "| -∞ |",
        "| 3 |",
    ]


def test_an_alert_without_numbers_has_no_table():
    alert = Alert(rule="r", step=1, level="info", title="T", text="Do this.")
    assert alert_markdown(alert) == "**note: T**\n\nDo this."
