"""The command line: a group of commands, and every failure turned into one line and an exit code."""

from __future__ import annotations

import os
import sys

import click

from .commands.benchmark import benchmark
from .commands.doctor import doctor
from .commands.evaluate import evaluate
from .commands.export import export
from .commands.import_weights import import_weights
from .commands.inspect import inspect
from .commands.list_systems import list_systems
from .commands.listen import listen
from .commands.merge_reports import report
from .commands.output import complain
from .commands.run import run
from .commands.serve import serve
from .commands.streams import standard_streams
from .commands.train import train
from .commands.web import web
from .errors import EXIT_INTERRUPTED, DeployError, caused_by_interruption
from .machine.homes import has_temporary_folder, name_user
from .machine.memory import REMEDY, is_out_of_memory


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="msformer-deploy")
def cli() -> None:
    """Segment medical images without labels and without a training set.

    Research software, not a medical device.

    \b
    Exit codes:
      0    success
      1    failure
      2    wrong usage
      3    validation mismatch, or a broken limit of benchmark
      4    backend or device not available
      5    some inputs or rows failed
      130  interrupted
    """  # noqa: D301 - click takes the control character, not its name


COMMANDS = (
    export,
    run,
    report,
    benchmark,
    evaluate,
    train,
    import_weights,
    inspect,
    doctor,
    list_systems,
    web,
    serve,
    listen,
)

for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Entry point of ``msformer-deploy``."""
    sys.exit(call(sys.argv[1:]))


def call(arguments: list[str]) -> int:
    """Run the command line on ``arguments`` and return the exit code."""
    name_user()
    with standard_streams():
        return _call(arguments)


def _call(arguments: list[str]) -> int:
    try:
        # Outside standalone mode click returns what a command passed to Context.exit, or the command's result.
        code = cli.main(arguments, prog_name="msformer-deploy", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        complain(error.format_message())
        return error.exit_code
    except DeployError as error:
        complain(str(error))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away
        return 1
    except Exception as error:
        if caused_by_interruption(error):
            complain("interrupted")
            return EXIT_INTERRUPTED
        if os.environ.get("MSFORMER_DEPLOY_DEBUG"):
            raise
        if is_out_of_memory(error):
            complain(f"there is not enough memory; {REMEDY}")
            return 1
        if isinstance(error, OSError) and not has_temporary_folder():
            complain("no folder for temporary files is writable; set TMPDIR to a writable folder")
            return 1
        complain(f"internal error, {type(error).__name__}: {error}; MSFORMER_DEPLOY_DEBUG=1 shows the traceback")
        return 1
