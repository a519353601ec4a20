from vqtrt.commands import options as cli_options
from vqtrt.formats.precision import PRECISIONS, graph_key


def test_names():
    assert graph_key("fp32", "priors/p/row") == "priors/p/row"
    assert graph_key("bf16", "priors/p/row") == "bf16/priors/p/row"
    assert tuple(name.value for name in cli_options.PrecisionName) == PRECISIONS
