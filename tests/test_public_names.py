"""What `import canvas_rt` offers, and that it stays so."""

import canvas_rt


def test_the_public_names_are_these() -> None:
    assert canvas_rt.__all__ == sorted(canvas_rt.HOMES)
    assert set(canvas_rt.__all__) == {
        "CanvasError",
        "Certificate",
        "Diagnostic",
        "Document",
        "DryRun",
        "Scenario",
        "Source",
        "apply",
        "check",
        "diff",
        "dry_run",
        "emit",
        "export",
        "hardware_names",
        "import_model",
        "inverse",
        "launch",
        "load",
        "load_hardware",
        "measure",
        "open_source",
        "open_zoo",
        "parse_edits",
        "picture",
        "push",
        "save",
        "solve",
        "training_bundle",
        "transplant",
        "verify",
        "zoo_models",
    }


def test_every_public_name_exists_and_says_what_it_does() -> None:
    for name in canvas_rt.__all__:
        assert getattr(canvas_rt, name).__doc__, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(canvas_rt, "no_such_name")
