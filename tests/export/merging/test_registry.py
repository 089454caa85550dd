"""Methods by name: the grammar, what each option takes, and what a class does by itself."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from structsam_export.choices import (
    Border,
    Channels,
    Destination,
    Flatness,
    Gradient,
    Place,
    Reduction,
    Scope,
    Selection,
)
from structsam_export.merging import ALGM, Adjacent, Method, PiToMe, Site, StructSAM, ToMe, VidToMe
from structsam_export.merging.registry import METHODS, Entry, MethodSpec, Option
from structsam_runtime.errors import UserError

GRID, SQUARE = ("gradient", "scope", "border", "destination"), ("cell",)
MATCHING = ("channels", "reduction", "proportional")
APPLYING = {
    "structsam": {*GRID, *SQUARE, *MATCHING, "flatness", "selection", "cells", "place"},
    "bipartite": {*GRID, *SQUARE, *MATCHING},
    "tome": {*MATCHING},
    "tomesd": {*SQUARE, *MATCHING, "destination"},
    "pitome": {*MATCHING, "margin"},
    "vidtome": {*SQUARE, *MATCHING, "destination"},
    "algm": {*SQUARE, *MATCHING},
    "hybrid": {*GRID, *SQUARE, *MATCHING, "flatness", "spread"},
    "adjacent": {*SQUARE, *MATCHING, "destination"},
}
"""Which options each method has."""
DESTINATIONS = {
    "structsam": (Destination.MIN, Destination.MAX, Destination.RANDOM),
    "bipartite": (Destination.MIN, Destination.MAX, Destination.RANDOM),
    "tomesd": (Destination.RANDOM, Destination.FIRST),
    "vidtome": (Destination.LATTICE, Destination.RANDOM),
    "hybrid": (Destination.MIN, Destination.MAX, Destination.RANDOM),
    "adjacent": (Destination.RANDOM, Destination.FIRST),
}
VALUES: dict[str, Any] = {
    "cell": 7,
    "channels": Channels.FULL,
    "gradient": Gradient.CENTRAL,
    "scope": Scope.WINDOW,
    "border": Border.ZERO,
    "flatness": Flatness.MEAN,
    "selection": Selection.RANDOM,
    "cells": False,
    "spread": 1.5,
    "destination": Destination.RANDOM,
    "place": Place.MEAN,
    "reduction": Reduction.REPLACE,
    "proportional": True,
    "margin": 0.5,
}
OPTIONS = [
    pytest.param(own, option, id=f"{own.name}:{option.name}")
    for own in METHODS.values()
    for option in own.options
]


def test_the_registry_has_these_methods_and_options() -> None:
    assert {name: {option.name for option in own.options} for name, own in METHODS.items()} == APPLYING
    assert list(METHODS) == [own.name for own in METHODS.values()]


def test_the_registry_is_read_without_pytorch() -> None:
    modules = "structsam_export.merging.registry, structsam_export.recipe"
    program = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", METHODS)
def test_the_defaults_of_a_class_are_those_of_its_entry(name: str) -> None:
    kind = METHODS[name].load()
    assert issubclass(kind, Method)
    own = {field.name: field.default for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    assert {option.name: own[option.name] for option in METHODS[name].options} == {
        option.name: option.default for option in METHODS[name].options
    }
    others = set(own) - {option.name for option in METHODS[name].options}
    assert others <= {"rate", "heads", "seed", "prompt_windows", "rate_prompt", "local"}


@pytest.mark.parametrize(("own", "option"), OPTIONS)
def test_an_option_reaches_its_method(own: Entry, option: Option) -> None:
    value = VALUES[option.name]
    spec = MethodSpec.parse(f"{own.name}:{option.name}={option.text(value)}")
    assert spec.options[option.name] == value
    assert getattr(spec.build(0.5), option.name) == value
    assert MethodSpec.parse(str(spec)) == spec == MethodSpec.of(own.name, {option.name: value})


@given(st.data())
def test_the_text_of_a_method_is_read_back(data: st.DataObject) -> None:
    own = data.draw(st.sampled_from(list(METHODS.values())))
    chosen = data.draw(st.lists(st.sampled_from(own.options), unique_by=lambda option: option.name))
    options = {option.name: data.draw(values(option)) for option in chosen}
    spec = MethodSpec.of(own.name, options)
    again = MethodSpec.parse(str(spec))
    assert again == spec
    assert {name: type(value) for name, value in again.options.items()} == {
        name: type(value) for name, value in spec.options.items()
    }
    assert spec.options == {option.name: option.default for option in own.options} | options


def values(option: Option) -> st.SearchStrategy[Any]:
    """What an option takes; numbers as six digits write them."""
    if isinstance(option.default, bool):
        return st.booleans()
    if isinstance(option.default, int):
        return st.integers(int(option.least), 64)
    if isinstance(option.default, float):
        return st.integers(int(option.least) * 100, int(min(option.most, 9)) * 100).map(lambda n: n / 100)
    return st.sampled_from(option.values or list(type(option.default)))


def test_default_values_are_not_written() -> None:
    assert str(MethodSpec.parse("structsam:cells=yes:cell=2:gradient=sobel")) == "structsam"
    assert MethodSpec("tome").having(channels=None, reduction=Reduction.MEAN) == MethodSpec("tome")
    assert str(MethodSpec.parse("adjacent:proportional=no:reduction=replace")) == (
        "adjacent:reduction=replace:proportional=no"
    )


@pytest.mark.parametrize("destination", Destination)
@pytest.mark.parametrize("name", DESTINATIONS)
def test_every_destination_is_taken_or_refused(name: str, destination: Destination) -> None:
    if destination in DESTINATIONS[name]:
        assert MethodSpec.parse(f"{name}:destination={destination}").options["destination"] is destination
    else:
        expected = f"--method {name}:destination={destination} is not possible; expected "
        with pytest.raises(UserError, match=expected + " or ".join(DESTINATIONS[name])):
            MethodSpec.parse(f"{name}:destination={destination}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nose", "--method nose is unknown; expected one of structsam, bipartite, tome, tomesd, pitome"),
        ("", "--method  is unknown"),
        (
            "tome:cell=2",
            "--method tome has no option cell; expected one of channels, reduction, proportional",
        ),
        ("tome:nose=1", "--method tome has no option nose; expected one of"),
        ("structsam:cell=two", "--method structsam:cell=two is not possible; expected a whole number from 2"),
        ("structsam:cell=1", "expected a whole number from 2"),
        ("structsam:cell", "--method structsam:cell= is not possible"),
        ("structsam:cells=maybe", "expected yes or no"),
        ("structsam:gradient=prewitt", "expected sobel or central"),
        ("pitome:margin=1.5", "expected a number from -1 to 1"),
        ("pitome:margin=nan", "expected a number from -1 to 1"),
        ("hybrid:spread=0.9", "expected a number from 1"),
        ("hybrid:spread=inf", "expected a number from 1"),
    ],
)
def test_an_error_names_the_expected_values(text: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        MethodSpec.parse(text)
    assert message in str(refused.value)


@pytest.mark.parametrize("value", [2.0, "2", True, Gradient.SOBEL])
def test_a_value_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(UserError, match="structsam:cell="):
        MethodSpec.of("structsam", {"cell": value})


# What a block decides


def test_heads_and_seeds_are_those_of_the_block() -> None:
    site = Site(block=3, depth=12, heads=12, seed=8)
    assert StructSAM(0.4).at(site) == StructSAM(0.4, seed=8)
    assert StructSAM(0.4, channels=Channels.HEADS).at(site).heads == 12
    assert ToMe(0.4).at(site) == ToMe(0.4, heads=12)
    assert ToMe(0.4, channels=Channels.FULL).at(site).heads == 1
    assert Adjacent(0.4).at(site) == Adjacent(0.4, heads=12, seed=8)
    assert VidToMe(0.4).at(site) == VidToMe(0.4, heads=12, seed=8)


def test_methods_that_depend_on_depth_follow_the_block() -> None:
    assert PiToMe(0.4, margin=0.9).at(Site(3, 12, 12)).margin == pytest.approx(0.9 * 9 / 12)
    assert ALGM(0.4).at(Site(4, 12, 12)).local == 1.0
    assert ALGM(0.4).at(Site(5, 12, 12)).local == 0.5
