"""What every command shares: one-line errors and exit codes."""

import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import typer

from ..errors import UserError, one_line, printable

USAGE = 2
"""Exit code of a usage error, which is one line on stderr."""
FAILED = 3
"""Exit code where the work was done and its result, or part of it, is not good."""
INTERRUPTED = 130
LOWER = "lower --pred-iou-thresh or --stability-score-thresh to see more"
"""What helps where everything mode finds nothing."""
EXTRAS = {
    "evaluate": ("matplotlib", "pydicom", "scipy"),
    "cluster": ("ray",),
    "demo": ("starlette", "uvicorn"),
    "export,cpu": (
        *("onnx", "onnx_graphsurgeon", "onnx_ir", "onnxruntime", "onnxscript", "polygraphy"),
        *("safetensors", "segment_anything", "skimage", "torch"),
    ),
}
"""Which extras bring a package, by the name it is imported under. Engines for GPUs name theirs themselves."""

# Typer took its copy of click in as `typer._click`; before that it raised click's own exceptions. Either way
# the usage errors share one base, and it is the last class behind BadParameter that can format a message.
_UsageError: type[Exception] = next(
    base for base in reversed(typer.BadParameter.__mro__) if hasattr(base, "format_message")
)


def run(
    app: typer.Typer | Callable[..., object], args: Sequence[str] | None = None, name: str | None = None
) -> NoReturn:
    """Run a command-line program and end the process with its exit code.

    Args:
        app: a typer application, or the function that is its only command.
        args: arguments without the program's name; default ``sys.argv[1:]``.
        name: of the program, in its help; default: that of the file that was started.

    Raises:
        SystemExit: always. 0 when the command returned or printed its help; 2 after a mistake of the person
            (:class:`UserError`, an unknown option, a missing argument ...), told as one line ``error: ...``
            on stderr; 130 with ``interrupted`` after Ctrl-C; otherwise the code of ``typer.Exit``. Any other
            exception is a defect and passes through with its traceback.
    """
    if not isinstance(app, typer.Typer):
        program = typer.Typer(add_completion=False)
        program.command()(app)
        app = program
    sys.exit(_exit_code(app, args, name))


def given(**settings: Any) -> dict[str, Any]:
    """Those options of a command that came; the others are None."""
    return {name: value for name, value in settings.items() if value is not None}


def option(name: str) -> str:
    """The option that gives a parameter."""
    return "--" + name.replace("_", "-")


def missing(error: ModuleNotFoundError, what: str = "this") -> NoReturn:
    """End a command that needs a package which is not installed.

    Args:
        error: of the import.
        what: needs it, for the message.

    Raises:
        SystemExit: with 2, after one line that says what to install.
        ModuleNotFoundError: the same again, where no extra brings the package: that is a defect.
    """
    package = (error.name or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if package in packages:
            print(f'error: {what} needs {package}; pip install "structsam[{extra}]"', file=sys.stderr)
            sys.exit(USAGE)
    raise error


def _exit_code(app: typer.Typer, args: Sequence[str] | None, name: str | None) -> int:
    try:
        # Outside standalone mode typer raises its errors for us to print, and returns the code of typer.Exit.
        with warnings.catch_warnings():
            warnings.showwarning = one_line(warnings.showwarning)
            result = typer.main.get_command(app)(args=args, prog_name=name, standalone_mode=False)
    except UserError as error:
        return fail(str(error))
    except _UsageError as error:
        return fail(error.format_message())  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    code = result if isinstance(result, int) else 0
    # Typer itself turns Ctrl-C into this code, and says nothing.
    return interrupted() if code == INTERRUPTED else code


def interrupted() -> int:
    """Print one line; returns the exit code."""
    print("interrupted", file=sys.stderr)
    return INTERRUPTED


def fail(message: str) -> int:
    """Print one line; none where typer has shown the help of a program that was called without arguments."""
    if message:
        print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return USAGE


_NUMBER = re.compile(r"[-+]?(\d|\.\d|nan|inf)", re.IGNORECASE)


def join_values(args: Sequence[str], counts: Mapping[str, int]) -> list[str]:
    """Let an option be repeated and take several numbers each time.

    Typer has tuple options and list options, but no list of tuples. ``--box 1 2 3 4 --box 5 6 7 8`` becomes
    ``--box=1,2,3,4 --box=5,6,7,8``, which a plain ``list[str]`` option takes and :func:`numbers` reads. The
    written-out form ``--box 1,2,3,4`` passes through.

    Args:
        args: arguments as the shell gave them.
        counts: option -> how many numbers it takes at most.
    """
    joined: list[str] = []
    queue = list(args)
    while queue:
        option = queue.pop(0)
        values: list[str] = []
        while option in counts and queue and len(values) < counts[option] and _NUMBER.match(queue[0]):
            values.append(queue.pop(0))
            if "," in values[-1]:
                break
        joined.append(f"{option}={','.join(values)}" if values else option)
    return joined


def numbers(option: str, text: str, names: Sequence[str]) -> list[float]:
    """The numbers of one option value such as ``100,80,400,360``.

    Args:
        option: the option's name, for the message.
        text: as many numbers as there are names, separated by commas.
        names: what each number stands for, for the message.

    Raises:
        UserError: another count, or something that is not a number.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != len(names):
        raise UserError(
            f"{option} got '{text.replace(',', ' ')}', expected {len(names)} numbers: {' '.join(names)}"
        )
    return values
