"""structsam macs as a person calls it: the paper's numbers, and what a method spends on what."""

import re
from collections.abc import Callable

import pytest

Macs = Callable[[str], tuple[int | str | None, str, str]]
RunCommand = Callable[[str, str], tuple[int | str | None, str, str]]


@pytest.fixture
def macs(tiny: str, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch) -> Macs:
    """Runs the command in this process: exit code, stdout, stderr."""

    def call(line: str) -> tuple[int | str | None, str, str]:
        return run_command("macs", line)

    return call


def number(out: str, pattern: str) -> float:
    """The one number that stands where the pattern has brackets."""
    (found,) = re.findall(pattern, out)
    return float(found)


def test_table_5_of_the_paper(macs: Macs) -> None:
    code, out, err = macs("--table-5")
    assert (code, err) == (0, "")
    assert [line.rsplit(maxsplit=1) for line in out.splitlines()] == [
        ["global  PiToMe", "1.0737"],
        ["global  StructSAM (Central Diff)", "0.2684"],
        ["global  StructSAM (Sobel)", "0.2732"],
        ["window  PiToMe", "0.0615"],
        ["window  StructSAM (Central Diff)", "0.0154"],
        ["window  StructSAM (Sobel)", "0.0210"],
    ]


@pytest.mark.parametrize(
    ("arch", "counted", "paper"),
    [("vit_b", "347.84", 347.8), pytest.param("vit_l", "1167.40", 1167.1, marks=pytest.mark.long)],
)
def test_the_preset_explains_the_papers_flops(macs: Macs, arch: str, counted: str, paper: float) -> None:
    """To 0.03 %, by a reading that was searched for: block 0 unmerged, the authors' bipartite code."""
    code, out, _ = macs(f"--arch {arch} --preset paper-flops")
    assert code == 0
    assert f"counted as in the paper: {counted}" in out
    assert float(counted) == pytest.approx(paper, rel=3e-4)
    first = out.splitlines()[1].split()
    assert first[:2] == ["0", "window"]
    assert first[-4:-1] == ["-", "-", "-"]  # nothing is planned in block 0


def test_structsam_on_the_mean_over_heads_costs_what_was_documented(macs: Macs) -> None:
    """321.27 G with tokens unmerged after the projection, 339.33 before it, to 0.02 %."""
    code, out, _ = macs("--arch vit_b --method structsam --rate 0.55 --channels heads")
    assert code == 0
    assert number(out, r"encoder: ([\d.]+) of 486\.416 unmerged") == pytest.approx(321.27, rel=2e-4)
    assert number(out, r"authors' code does: ([\d.]+)") == pytest.approx(339.33, rel=2e-4)


@pytest.mark.parametrize(
    ("line", "removed"),
    [
        ("--method structsam --rate 0.55", "55.1% in window blocks, 55.0% in global blocks"),
        ("--method tome --rate 0.55", "50.0% in window blocks, 50.0% in global blocks"),
        ("--method pitome --rate 0.7", "50.0% in window blocks, 50.0% in global blocks"),
        ("--rate 0", "none"),
        (
            "--prompt-aware",
            "35.2% in windows with a prompt, 75.0% in window blocks, 75.0% in global blocks",
        ),
    ],
)
def test_the_effective_rate_is_printed(macs: Macs, line: str, removed: str) -> None:
    code, out, _ = macs(line)
    assert code == 0
    assert f"tokens removed: {removed}\n" in out


def test_rows_and_columns_add_up(macs: Macs) -> None:
    """Three digits are shown, so that a sum of ten may be 0.006 off."""
    code, out, _ = macs("--arch vit_b --method algm:reduction=replace --rate 0.35")
    assert code == 0
    header, *blocks, sums = out.splitlines()[:14]
    assert header.split() == [
        "block", "kind", "qkv", "scores", "values", "relative", "position", "proj", "mlp", "norm", "energy",
        "similarity", "averaging", "total",
    ]  # fmt: skip
    values = [[0.0 if cell == "-" else float(cell) for cell in line.split()[2:]] for line in blocks]
    assert [line.split()[:2] for line in blocks] == [
        [str(index), "global" if index in (2, 5, 8, 11) else "window"] for index in range(12)
    ]
    for row in values:
        assert sum(row[:-1]) == pytest.approx(row[-1], abs=6e-3)
    shown = [0.0 if cell == "-" else float(cell) for cell in sums.split()[1:]]
    for column, total in zip(zip(*values, strict=True), shown, strict=True):
        assert sum(column) == pytest.approx(total, abs=7e-3)
    stem = number(out, r"patch embedding and neck: ([\d.]+)")
    assert number(out, r"encoder: ([\d.]+) of") == pytest.approx(stem + shown[-1], abs=1e-2)
    assert shown[-2] == 0  # nothing is averaged where the destination replaces


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--arch vit_x", "--arch vit_x is unknown; expected one of vit_nano, vit_b"),
        ("--rate 0.8", "the rate of window blocks is 0.8"),
        ("--method tome --preset paper-flops", "paper-flops is for --method bipartite; leave --method out"),
        ("--method nose", "--method"),
        ("--preset nose", "--preset"),
        ("--method tome:reduction=sum", "expected mean or replace"),
    ],
)
def test_usage_errors_print_one_line(macs: Macs, line: str, message: str) -> None:
    code, out, err = macs(line)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert err.startswith("error: ")
