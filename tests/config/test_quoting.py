import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from meft_runner.config.quoting import assignment, quoted

PLAIN = ["1036d2a3b7", "0123456789", "a\\", "runs/a-1"]
ODD = ["12e3456789", "1023456789", "a folder, it's mine", "c (1)", "a,b", "é", "null", "[" * 60, "a\\'b", " a "]


@pytest.mark.parametrize("name", [*PLAIN, *ODD])
def test_names_are_read_as_names(name):
    typed = assignment("from_record", name)
    assert typed == f"from_record={name if name in PLAIN else quoted(name)}"
    value = OverridesParser.create().parse_override(typed).value()
    assert getattr(value, "text", value) == name
