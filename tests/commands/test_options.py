import typer
from typer.testing import CliRunner

from vqtrt import cli
from vqtrt.commands.options import expanded
from vqtrt.engines.options import AUTO, EngineOptions


def test_every_command_that_opens_an_engine_takes_all_its_options() -> None:
    """Also the twins: an option of engines that one command lacks is found here."""
    group = typer.main.get_command(cli.app)
    commands = dict(group.commands) | {  # type: ignore[attr-defined]
        f"bench {name}": command
        for name, command in group.commands["bench"].commands.items()  # type: ignore[attr-defined]
    }
    opening = {
        name: {option for each in command.params for option in each.opts}
        for name, command in commands.items()
        if any("--engine" in each.opts for each in command.params)
    }
    assert {"encode", "decode", "eval", "verify", "sample", "convert", "probe"} <= set(opening)
    for name, options in opening.items():
        assert {"--engine", "--precision", "--device", "--trust-engines"} <= options, name


def test_the_options_of_an_engine_reach_it_as_they_were_given() -> None:
    seen: list[EngineOptions] = []
    app = typer.Typer()

    @app.command()
    @expanded
    def command(name: str, engine: EngineOptions = AUTO, last: bool = False) -> None:
        assert name == "x"
        seen.append(engine)

    line = ["x", "--engine", "torch", "--precision", "fp16", "--device", "2", "--trust-engines"]
    for args in (line, ["x"]):
        assert CliRunner().invoke(app, args).exit_code == 0
    assert seen == [EngineOptions("torch", "fp16", device=2, trust_engines=True), AUTO]
